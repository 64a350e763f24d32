from __future__ import annotations

import json

import pytest

from perception_r1.errors import DataError, UserError
from perception_r1.evaluate.compare import compare_runs, paired_folders
from perception_r1.evaluate.run import evaluate
from perception_r1.tasks import make_task
from perception_r1.types import BoxTarget, Completion, Sample

RIGHT, WRONG, CLOSE = (0, 0, 500, 500), (600, 600, 900, 900), (0, 0, 500, 400)


def _samples(n):
    return [
        Sample(str(i), "grounding", f"thing {i}", BoxTarget(((0, 0, 50, 50),)), image_size=(100, 100)) for i in range(n)
    ]


def _run(folder, boxes, name, task="grounding"):
    answers = {
        str(i): Completion(f"<|box_start|>({b[0]},{b[1]}),({b[2]},{b[3]})<|box_end|>") for i, b in enumerate(boxes)
    }
    scorer = make_task(task, family="qwen2_vl")
    evaluate(scorer, _samples(len(boxes)), answers, folder, model_name=name, progress=False, resamples=100)
    return folder


def test_paired_by_hand(tmp_path):
    # 2 right in A only, 10 in B only, 3 in both, 1 in neither; and one a little worse
    before = [RIGHT] * 2 + [WRONG] * 10 + [RIGHT] * 3 + [WRONG]
    after = [WRONG] * 2 + [RIGHT] * 10 + [RIGHT] * 2 + [CLOSE] + [WRONG]
    found = compare_runs(_run(tmp_path / "a", before, "base"), _run(tmp_path / "b", after, "tuned"))
    assert found.names == ("base", "tuned")
    assert (found.n, found.only_a, found.only_b, found.both, found.neither) == (16, 2, 10, 3, 1)
    assert found.exact == pytest.approx(0.0386, abs=5e-5)
    entry = found.metrics["acc@0.5"]
    assert (entry["a"], entry["b"], entry["value"]) == (5 / 16, 13 / 16, 0.5)
    assert 0 < entry["low"] < 0.5 < entry["high"]
    assert [change.outcome for change in found.changes].count("gained") == 10
    last = found.changes[-1]
    assert (last.outcome, last.id, last.before, last.after) == ("worse", "14", 1.0, 0.8)
    strict = compare_runs(tmp_path / "a", tmp_path / "b", right_from=0.95)
    assert (strict.only_a, strict.only_b) == (3, 10)


def test_only_common_samples_count(tmp_path):
    found = compare_runs(_run(tmp_path / "a", [RIGHT] * 3, "m"), _run(tmp_path / "b", [RIGHT] * 5, "m"))
    assert (found.n, found.left_out, found.names) == (3, 2, ("a", "b"))
    assert found.exact == 1.0
    assert found.changes == []


def test_labels_of_people(tmp_path):
    """The paper's own use: was the picture read rightly, before and after, of 50 problems."""
    rights = [(True, False)] * 2 + [(False, True)] * 10 + [(True, True)] * 20 + [(False, False)] * 18
    for side, name in enumerate("ab"):
        rows = [json.dumps({"id": i, "right": pair[side]}) for i, pair in enumerate(rights)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    found = compare_runs(tmp_path / "a.jsonl", tmp_path / "b.jsonl")
    assert (found.task, found.n, found.only_a, found.only_b) == ("labels", 50, 2, 10)
    assert round(found.exact, 4) == 0.0386


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"id": 1}', "field 'right': is missing"),
        ('{"id": 1, "right": "yes"}', "neither true nor false"),
        ('{"id": 0, "right": 1}', "is there twice"),
    ],
)
def test_broken_labels(tmp_path, line, message):
    (tmp_path / "a.jsonl").write_text('{"id": 0, "right": true}\n' + line)
    with pytest.raises(DataError, match=rf"a.jsonl:2: .*{message}"):
        compare_runs(tmp_path / "a.jsonl", tmp_path / "a.jsonl")


def test_what_cannot_be_compared(tmp_path):
    (tmp_path / "empty").mkdir()
    run = _run(tmp_path / "a", [RIGHT], "m")
    with pytest.raises(UserError, match="holds no evaluation"):
        compare_runs(run, tmp_path / "empty")


def test_folders_of_several_evaluations_are_paired_by_name(tmp_path):
    for name in ("a/x", "a/y", "b/y", "b/z", "c/w"):
        _run(tmp_path / name, [RIGHT], "m")
    a, b, c = (tmp_path / name for name in "abc")
    assert paired_folders(a, b) == [("y", a / "y", b / "y")]
    assert paired_folders(a / "x", b / "y") == [("", a / "x", b / "y")]
    with pytest.raises(UserError, match=r"hold no evaluation of one name \(x, y; w\)"):
        paired_folders(a, c)


def test_coco_figures_are_paired(tmp_path):
    pytest.importorskip("hotcoco")
    task = make_task("detection", family="qwen3_vl")
    target, names = BoxTarget(((10, 10, 60, 60),), ("cat",)), ("cat",)
    samples = [Sample(str(i), "detection", "", target, image_size=(100, 100), categories=names) for i in range(6)]
    gold = {sample.id: Completion(task.gold(sample)) for sample in samples}
    half = {key: value if int(key) < 3 else Completion("[]") for key, value in gold.items()}
    for name, answers in (("a", half), ("b", gold)):
        evaluate(task, samples, answers, tmp_path / name, model_name=name, progress=False, resamples=50)
    entry = compare_runs(tmp_path / "a", tmp_path / "b").metrics["AP50"]
    assert entry["b"] == pytest.approx(1.0)
    assert entry["value"] == pytest.approx(entry["b"] - entry["a"])
    assert 0 < entry["low"] <= entry["value"] <= entry["high"]
