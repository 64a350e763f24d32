from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from perception_r1.analysis.diagnose import advise, diagnose_groups, group_verdict, pass_at_k
from perception_r1.analysis.perplexity import PUBLISHED, perceptual_perplexity
from perception_r1.analysis.rollouts import group_of
from perception_r1.errors import UserError
from perception_r1.types import BoxTarget, Completion, CountTarget, RewardRecord, Sample, TextTarget


def counting(n: int, name: str = "a") -> Sample:
    return Sample(name, "counting", "dog", CountTarget(n))


def group(*answers: tuple[float | None, int], target: int = 2):
    records = [RewardRecord(reward, n_pred=n, n_valid=n, n_target=target) for reward, n in answers]
    return group_of(1, counting(target), [(Completion(""), record) for record in records])


def test_answers_that_were_not_scored_are_left_out():
    told = [group((1.0, 2), (1.0, 2), (None, 2)), group((0.5, 1), (1.0, 2), (None, 0)), group((None, 2), (None, 2))]
    found = diagnose_groups(told)
    assert (found["n"], found["group_size"]) == (2, 2)
    assert found["reward"]["value"] == pytest.approx((1.0 + 0.75) / 2)
    assert found["metric"]["value"] == pytest.approx((1.0 + 0.5) / 2)
    assert found["pass@1"]["value"] == pytest.approx((1.0 + 0.5) / 2)
    assert found["verdicts"] == {"rl": 0.5, "sft": 0.0, "drop": 0.5}
    with pytest.raises(UserError, match="no answer to any of the 1 questions was scored"):
        diagnose_groups(told[2:])


@given(st.lists(st.integers(0, 12), min_size=1, max_size=20))
def test_perceptual_perplexity_is_the_mean_factorial(counts):
    found = perceptual_perplexity([counting(n) for n in counts])
    assert found["mean"] == pytest.approx(sum(map(math.factorial, counts)) / len(counts), rel=1e-9)
    assert found["mean_log"] == pytest.approx(sum(math.log(math.factorial(n)) for n in counts) / len(counts), abs=1e-9)
    assert found["objects"]["max"] == max(counts)


def test_the_published_mean_is_one_image():
    # 63! over 5,714 images: the mean that the paper gives for COCO comes from its most crowded image alone.
    found = perceptual_perplexity([counting(63), *[counting(7)] * 5713])
    assert found["mean"] == pytest.approx(PUBLISHED["COCO2017"], rel=2e-3)
    assert found["median"] == pytest.approx(5040)
    assert found["median_log"] == pytest.approx(math.log(5040))


def test_figures_of_perplexity_by_hand():
    # 1!, 2!, 3!, 4! = 1, 2, 6, 24: mean 33/4, median (2 + 6)/2; logs 0, ln 2, ln 6, ln 24, whose sum is ln 288.
    found = perceptual_perplexity([counting(n) for n in (3, 1, 4, 2)])
    assert found["mean"] == pytest.approx(8.25) and found["median"] == pytest.approx(4)
    assert found["mean_log"] == pytest.approx(math.log(288) / 4)
    assert found["median_log"] == pytest.approx(math.log(12) / 2)
    assert found["objects"] == {"mean": 2.5, "median": 2.5, "max": 4}


def test_no_number_is_too_large():
    found = perceptual_perplexity([counting(300)])
    assert found["mean"] is None
    assert found["log_mean"] == pytest.approx(math.lgamma(301))
    assert perceptual_perplexity([]) == {"n": 0}


def test_one_target_is_1():
    text = Sample("t", "ocr", "", TextTarget("many words to read"))
    phrase = Sample("p", "grounding", "dogs", BoxTarget(((0, 0, 1, 1), (2, 2, 3, 3))))
    found = perceptual_perplexity([text, phrase])
    assert (found["mean"], found["median_log"]) == (1.0, 0.0)


@given(st.integers(1, 10), st.data())
def test_pass_at_k_is_the_share_of_subsets(n, data):
    from itertools import combinations

    right, k = data.draw(st.integers(0, n)), data.draw(st.integers(1, n))
    subsets = list(combinations([True] * right + [False] * (n - right), k))
    assert pass_at_k(n, right, k) == pytest.approx(sum(map(any, subsets)) / len(subsets))


def test_verdicts():
    assert group_verdict(group((1.0, 2), (1.0, 2))) == "drop"
    assert group_verdict(group((0.0, 0), (0.0, 1))) == "sft"
    assert group_verdict(group((0.9, 2), (0.1, 1))) == "rl"
    assert group_verdict(group((0.4, 1), (0.4, 1))) == "sft"  # no gradient
    assert group_verdict(group((0.5, 2), (0.9, 2))) == "rl"  # the right number, but loose boxes
    # With a reward that goes up to 3, 1 is nothing like solved.
    assert group_verdict(group((1.0, 2), (1.0, 2)), most=3.0) == "sft"


def test_figures_by_hand():
    found = diagnose_groups([group((1.0, 2), (0.5, 1)), group((0.0, 0), (0.0, 0))])
    assert found["reward"]["value"] == pytest.approx(0.375)
    assert found["headroom"]["value"] == pytest.approx(0.125)
    assert (found["pass@1"]["value"], found["pass@2"]["value"]) == (0.25, 0.5)
    assert found["spread"]["value"] == pytest.approx(math.sqrt(0.125) / 2)
    assert found["verdicts"] == {"rl": 0.5, "sft": 0.5, "drop": 0.0}
    assert (found["zero_spread"]["value"], found["all_zero"]["value"]) == (0.5, 0.5)


def test_advice_has_reasons():
    many, one = perceptual_perplexity([counting(5)]), perceptual_perplexity([counting(1)])
    rl = advise(many, diagnose_groups([group((1.0, 2), (0.5, 1))] * 4))
    assert rl["advice"] == "rl" and "100 % of the questions" in rl["reasons"][0] and "4.79" in rl["reasons"][-1]
    sft = advise(one, diagnose_groups([group((0.0, 0), (0.0, 0))] * 4), {"perplexity": 40.0, "n": 4})
    assert sft["advice"] == "sft" and "40.0 a token" in sft["reasons"][-2] and "gains little" in sft["reasons"][-1]
    drop = advise(many, diagnose_groups([group((1.0, 2), (1.0, 2))] * 4))
    assert drop["advice"] == "drop"
    assert advise(many)["advice"] is None


def recipe_file(folder: Path, model: str = "none") -> Path:
    path = folder / "r.yaml"
    path.write_text(
        f"name: small\ntask: counting\nmodel: {model}\nfamily: qwen3_vl\n"
        f"data: {{train: [{{source: digits, path: {folder}, options: {{n: 12, min_digits: 2, max_digits: 3}}}}]}}\n"
        "grpo: {max_completion_length: 12}\n"
    )
    return path


def test_data_alone_need_no_model(tmp_path):
    pytest.importorskip("sklearn")
    from perception_r1.cli import app

    done = CliRunner().invoke(app, ["diagnose", str(recipe_file(tmp_path)), "--data-only"])
    assert done.exit_code == 0, done.output
    assert "counting, 12 questions" in done.output and "no advice without a model" in done.output


def test_command_with_a_model(tmp_path):
    """A tiny untrained model: it cannot count, so the advice is SFT; its rollouts can be read by every other tool."""
    pytest.importorskip("trl")
    pytest.importorskip("sklearn")
    from perception_r1.analysis.rollouts import read_groups
    from perception_r1.cli import app
    from perception_r1.models.tiny import build_tiny

    model, processor = build_tiny("qwen3_vl")
    model.save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    arguments = [
        "diagnose",
        str(recipe_file(tmp_path, str(tmp_path / "model"))),
        "-n",
        "6",
        "-G",
        "3",
        "--batch-size",
        "4",
        "--out",
        str(out),
        "--json",
        "--quiet",
    ]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    found = json.loads(done.stdout)
    assert found["advice"] == "sft"
    # An untrained model is about uniform over its vocabulary.
    assert 200 < found["gold"]["perplexity"] < 10 * len(processor.tokenizer)
    assert found == json.loads((out / "diagnose.json").read_text())
    groups = read_groups(out)
    assert [len(group.rollouts) for group in groups] == [3] * 6
    assert len({group.sample.id for group in groups}) == 6
    # What is there is kept; a batch that a kill left out is sampled again, the same.
    last = sorted((out / "rollouts").iterdir())[-1]
    last.unlink()
    assert CliRunner().invoke(app, [*arguments, "--resume"]).exit_code == 0
    assert read_groups(out) == groups
    again = CliRunner().invoke(app, ["diagnose", str(out), "--json"])
    assert again.exit_code == 0, again.output
    assert json.loads(again.stdout)["groups"]["reward"] == found["groups"]["reward"]
    for option in (["--model", "x"], ["--data-only"], ["--set", "task=ocr"]):
        refused = CliRunner().invoke(app, ["diagnose", str(out), *option])
        assert refused.exit_code == 2 and option[0] in refused.output
    refused = CliRunner().invoke(app, [*arguments, "--resume", "--batch-size", "3"])
    assert refused.exit_code == 2 and "sampling" in refused.output
    # Retrained in the same folder: the answers of before are not its answers.
    model.generation_config.max_length = 77
    model.save_pretrained(tmp_path / "model")
    refused = CliRunner().invoke(app, [*arguments, "--resume"])
    assert refused.exit_code == 2 and "differs in: inputs" in refused.output


def test_the_models_own_perplexity_is_that_of_its_loss(tmp_path):
    torch = pytest.importorskip("torch")
    pytest.importorskip("transformers")
    pytest.importorskip("sklearn")
    from perception_r1.analysis.perplexity import gold_log_likelihood
    from perception_r1.data.digits import make_scenes
    from perception_r1.data.images import prepare
    from perception_r1.models.tiny import build_tiny
    from perception_r1.tasks import make_task
    from perception_r1.train.warm_start import collate

    model, processor = build_tiny("qwen3_vl")
    task = make_task("counting", family="qwen3_vl")
    scenes = [prepare(s, task.family) for s in make_scenes("counting", 3, seed=1, max_digits=3, out_dir=tmp_path)]
    found = gold_log_likelihood(model, processor, task, scenes, batch_size=2)
    alone = gold_log_likelihood(model, processor, task, scenes, batch_size=1)
    assert [n for _, n in found] == [n for _, n in alone]
    assert [value for value, _ in found] == pytest.approx([value for value, _ in alone], rel=1e-4)
    # The warm start builds its batches in another way: the same mean loss.
    from perception_r1.data.images import model_image

    batch, targets = collate(processor, [(model_image(sample), sample) for sample in scenes])
    with torch.inference_mode():
        logits = model(**batch).logits
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets[:, 1:].flatten(), ignore_index=-100)
    assert -sum(v for v, _ in found) / sum(n for _, n in found) == pytest.approx(loss.item(), rel=1e-3)
