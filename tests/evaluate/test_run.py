from __future__ import annotations

import json
from dataclasses import replace

import pytest

from perception_r1.errors import DataError, UserError
from perception_r1.evaluate.generate import TransformersGenerator, read_responses
from perception_r1.evaluate.results import read_lines, read_results
from perception_r1.evaluate.run import evaluate, plan_batches
from perception_r1.tasks import make_task
from perception_r1.types import BoxTarget, Completion, Sample


@pytest.fixture(scope="module")
def task():
    return make_task("counting", family="qwen3_vl")


class KilledError(Exception):
    pass


class Watched:
    """The real generator, counting its calls, and dying where it is told to."""

    def __init__(self, generator, die_after=None):
        self.generator, self.die_after, self.asked = generator, die_after, []

    batch_size = property(lambda self: self.generator.batch_size)
    settings = property(lambda self: self.generator.settings)

    def __call__(self, samples, prompts):
        if self.die_after is not None and len(self.asked) >= self.die_after:
            raise KilledError
        self.asked.append([sample.id for sample in samples])
        return self.generator(samples, prompts)


@pytest.fixture(scope="module")
def generator(tiny, task):
    return TransformersGenerator(*tiny, task.family, max_new_tokens=12, batch_size=4)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, task, scenes, generator):
    folder = tmp_path_factory.mktemp("whole")
    return folder, evaluate(task, scenes, generator, folder, model_name="tiny", progress=False, resamples=200)


def test_end_to_end_greedy(whole, scenes, task):
    folder, metrics = whole
    results = read_results(folder)
    assert [result.sample.id for result in results] == [sample.id for sample in scenes]  # the data's order
    assert metrics["n"] == metrics["n_scored"] == 12
    assert metrics == json.loads((folder / "metrics.json").read_text())
    assert metrics["primary"] == "accuracy"
    for result, sample in zip(results, scenes, strict=True):
        assert result.sample.target == sample.target
        assert result.sample.model_size is not None
        assert result.completion.finish_reason in ("stop", "length")
        # What is written is what the one scoring path says.
        assert result.record == task.score(result.sample, result.completion)


def test_image_tokens_are_never_produced(whole, task):
    for result in read_results(whole[0]):
        assert not any(token in result.completion.text for token in task.family.image_tokens)


def test_batched_equals_one_by_one(tiny, task, scenes, whole):
    """Left padding, masks and positions: a sample's answer must not depend on its neighbours."""
    alone = TransformersGenerator(*tiny, task.family, max_new_tokens=12, batch_size=1)
    results = read_results(whole[0])
    for result in (results[0], results[7]):
        (completion,) = alone([result.sample], [task.prompt(result.sample)])
        assert completion == result.completion


def test_a_line_cut_anywhere_is_left_out(tmp_path):
    file = tmp_path / "samples.jsonl"
    line = json.dumps({"id": "a", "response": "第一页"}, ensure_ascii=False).encode()
    for end in range(len(line)):
        file.write_bytes(line + b"\n" + line[:end])
        assert [row["id"] for row in read_lines(file)] == ["a"]
    file.write_bytes(line[:-4] + b"\n" + line)
    with pytest.raises(DataError, match=r"samples.jsonl:1: not UTF-8 text at byte"):
        read_lines(file)


@pytest.mark.parametrize("half_line", [False, True])
def test_killed_and_resumed_gives_the_same_file(tmp_path, task, scenes, generator, whole, half_line):
    with pytest.raises(KilledError):
        evaluate(task, scenes, Watched(generator, 2), tmp_path, model_name="tiny", progress=False)
    file = tmp_path / "samples.jsonl"
    assert len(file.read_text().splitlines()) == 8
    assert not (tmp_path / "metrics.json").exists()
    if half_line:  # killed while writing: the last line is cut off, and a batch is half done
        file.write_bytes(file.read_bytes()[:-40])
    watched = Watched(generator)
    evaluate(task, scenes, watched, tmp_path, model_name="tiny", progress=False, resamples=200)
    assert len(watched.asked) == (2 if half_line else 1)
    assert file.read_bytes() == (whole[0] / "samples.jsonl").read_bytes()
    drop = ("seconds",)
    first, second = (json.loads((folder / "metrics.json").read_text()) for folder in (whole[0], tmp_path))
    assert {k: v for k, v in first.items() if k not in drop} == {k: v for k, v in second.items() if k not in drop}


def test_finished_is_not_asked_again_and_another_model_is_refused(tmp_path, task, scenes, whole):
    folder = tmp_path / "copy"
    answers = read_responses(whole[0] / "samples.jsonl")
    evaluate(task, scenes, answers, folder, model_name="a", progress=False, resamples=50)
    evaluate(task, scenes, answers, folder, model_name="a", progress=False, resamples=50)
    with pytest.raises(UserError, match=r"holds the results of another evaluation \(differs in: model\)"):
        evaluate(task, scenes, answers, folder, model_name="b", progress=False)
    evaluate(task, scenes, answers, folder, model_name="b", progress=False, resume=False, resamples=50)


def test_files_of_the_user_beside_the_results_are_left_alone(tmp_path, task, scenes):
    answers = {sample.id: Completion("[]", "stop") for sample in scenes}
    mine = tmp_path / "samples.before.jsonl"
    mine.write_text('{"id": "mine"}\n')
    for resume in (True, False):
        evaluate(task, scenes, answers, tmp_path, model_name="a", progress=False, resamples=50, resume=resume)
        assert mine.read_text() == '{"id": "mine"}\n'


def test_other_categories_are_another_question(tmp_path):
    detection = make_task("detection", family="qwen3_vl")
    sample = Sample("a", "detection", "", BoxTarget(()), image_size=(64, 64), model_size=(64, 64))
    for names in (("cat",), ("cat", "dog")):
        asked = [replace(sample, categories=names)]
        if names == ("cat",):
            evaluate(detection, asked, {"a": Completion("[]")}, tmp_path, model_name="m", progress=False, resamples=9)
        else:
            with pytest.raises(UserError, match="differs in: data"):
                evaluate(detection, asked, {"a": Completion("[]")}, tmp_path, model_name="m", progress=False)


def test_replay_scores_the_same(tmp_path, task, scenes, whole):
    answers = read_responses(whole[0] / "samples.jsonl")
    metrics = evaluate(task, scenes, answers, tmp_path, model_name="tiny", progress=False, resamples=200)
    assert metrics["metrics"] == whole[1]["metrics"]


def test_gold_answers_are_right(tmp_path, task, scenes):
    answers = {sample.id: Completion(task.gold(sample), "stop") for sample in scenes}
    metrics = evaluate(task, scenes, answers, tmp_path, model_name="gold", progress=False, resamples=50)
    assert metrics["metrics"]["accuracy"] == {"value": 1.0, "low": 1.0, "high": 1.0, "n": 12}
    assert metrics["metrics"]["box_f1@0.5"]["value"] == 1.0
    assert metrics["unparsable"] == {}


def test_replay_misses_an_answer(tmp_path, task, scenes):
    with pytest.raises(DataError, match="no saved answer for sample"):
        evaluate(task, scenes, {"other": Completion("[]")}, tmp_path / "out", model_name="x", progress=False)
    assert not (tmp_path / "out").exists()


def test_a_processor_that_resizes_again_is_found_out(scenes):
    """Qwen2.5-VL answers in pixels of the resized image: a second resize would move every box, silently."""
    from dataclasses import replace

    from perception_r1.data.images import prepare
    from perception_r1.errors import ModelError
    from perception_r1.models.tiny import build_tiny

    task = make_task("counting", family="qwen2_5_vl")
    generator = TransformersGenerator(*build_tiny("qwen2_5_vl"), task.family, max_new_tokens=2)
    sample = prepare(scenes[0], task.family)
    assert len(generator([sample], [task.prompt(sample)])) == 1
    odd = replace(sample, model_size=(100, 100))  # no multiple of the grid: the processor makes 112 × 112 of it
    with pytest.raises(ModelError, match="resizes an image of 100 × 100 pixels to 112 × 112"):
        generator([odd], [task.prompt(odd)])


def test_longest_first(task, scenes):
    from perception_r1.data.images import prepare

    samples = [prepare(sample, task.family) for sample in scenes]
    batches = plan_batches(samples, [task.prompt(sample) for sample in samples], 4)
    assert sorted(index for batch in batches for index in batch) == list(range(12))
    assert batches[0] == [6, 7, 8, 9]  # the 128-pixel images come first, ties in the data's order


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("[1]", r"a.jsonl:2: not an object"),
        ('{"id": "b"}', r"a.jsonl:2: field 'response': is missing"),
        ('{"id": "a", "response": ""}', r"a.jsonl:2: field 'id': 'a' is there twice"),
        ('{"id": "b", "response": "", "finish_reason": "eos"}', r"a.jsonl:2: field 'finish_reason'"),
        ('{"id": "b", "resp', r"a.jsonl:2: the JSON is cut off"),
    ],
)
def test_broken_responses(tmp_path, line, message):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": "a", "response": "[]"}\n' + line + "\n")
    with pytest.raises(DataError, match=message):
        read_responses(path)
