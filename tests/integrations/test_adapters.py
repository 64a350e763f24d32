"""Every adapter gives what `task.score` gives, to the last bit; engines are called as they call a reward."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from perception_r1.data.row import row_from_sample
from perception_r1.errors import DataError, RecipeError
from perception_r1.families import get_family
from perception_r1.integrations import easyr1, scoring, swift, trl, verl, vlm_r1
from perception_r1.tasks import make_task
from perception_r1.tasks.hacks import battery
from perception_r1.types import AnswerTarget, BoxTarget, Completion, PointTarget, Sample, TextTarget

ROOT = Path(verl.__file__).parent
SPECIAL = re.compile(r"<\|[a-z_]+\|>")
SETTINGS = [
    {"task": "grounding", "family": "qwen2_vl", "reward": {"preset": "released"}},
    {"task": "grounding", "family": "internvl", "thinking": True},
    {"task": "counting", "family": "qwen2_vl"},
    {"task": "detection", "family": "qwen2_5_vl", "reward": {"preset": "released"}},
    {"task": "detection", "family": "qwen3_vl", "reward": {"options": {"floor": 0.1}}},
    {"task": "ocr", "family": "qwen2_vl"},
]


def samples(settings: dict[str, Any]) -> list[Sample]:
    """Five questions of a task, as a training run sees them."""
    family = get_family(settings["family"])
    found = []
    for i in range(5):
        size = (640 - 40 * i, 480 + 30 * i)
        boxes = tuple((20.0 + 90 * k, 30.0 + 11 * i, 100.0 + 90 * k, 190.0 + 7 * k) for k in range(i + 1))
        target: Any = {
            "grounding": BoxTarget(boxes[:1]),
            "counting": PointTarget(tuple(((a + c) / 2, (b + d) / 2) for a, b, c, d in boxes)),
            "detection": BoxTarget(boxes, tuple(("cat", "dog")[k % 2] for k in range(i + 1))),
            "ocr": TextTarget(f"page {i}: the quick brown fox\njumps <over> {i} dogs"),
        }[settings["task"]]
        categories = ("cat", "dog") if settings["task"] == "detection" else ()
        question = "" if settings["task"] in ("ocr", "detection") else "brown cat"
        model_size = family.model_size(size)
        found.append(Sample(f"{i}", settings["task"], question, target, None, size, model_size, categories))
    return found


def answers() -> list[tuple[dict[str, Any], Sample, str]]:
    """Over 200 answers: right ones, shifted ones, every known hack; families' own special tokens in them."""
    found = []
    for settings in SETTINGS:
        task = scoring.task_of(settings)
        for sample in samples(settings):
            gold = task.gold(sample)
            texts = [gold, gold.replace("1", "2"), gold + task.family.end_tokens[0], gold[: len(gold) // 2]]
            texts += [text for _, text in battery(sample, task)]
            found += [(settings, sample, text) for text in texts]
    return found


ANSWERS = answers()
Adapter = Callable[[dict[str, Any], list[Sample], list[str]], list[float | None]]


def by_trl(settings: dict[str, Any], rows: list[Sample], texts: list[str]) -> list[float | None]:
    (reward,) = trl.reward_functions(settings)
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    packed = [json.dumps(row_from_sample(row)) for row in rows]
    return asyncio.run(reward(prompts=[None] * len(texts), completions=completions, completion_ids=[], row=packed))


def by_trl_columns(settings: dict[str, Any], rows: list[Sample], texts: list[str]) -> list[float | None]:
    plain = [row_from_sample(row) for row in rows]
    columns = {key: [row.get(key) for row in plain] for row in plain for key in row}
    (reward,) = trl.reward_functions(settings)
    return asyncio.run(reward(prompts=[], completions=texts, completion_ids=[], trainer_state=None, **columns))


def by_verl(settings: dict[str, Any], rows: list[Sample], texts: list[str]) -> list[float | None]:
    score = verl.load(json.dumps(settings))
    found = [
        score(data_source="pr1", solution_str=text, ground_truth=scoring.pack(row), extra_info={"num_turns": 2})
        for row, text in zip(rows, texts, strict=True)
    ]
    assert len({tuple(item) for item in found}) == 1  # verl stacks them by the first one's keys
    assert all(isinstance(value, float) for item in found for value in item.values())
    return [item["score"] for item in found]


def by_swift(settings: dict[str, Any], rows: list[Sample], texts: list[str]) -> list[float | None]:
    class ORM:
        """The published signature; tests/integrations/test_swift_engine.py has the real one."""

        def __init__(self, args: Any = None, **kwargs: Any) -> None:
            self.args = args

    reward = swift.reward_class(ORM, settings)(args=None)
    packed = [scoring.pack(row) for row in rows]
    return reward(texts, row=packed, finish_reason=[None] * len(texts), trainer_state=None, messages=[])


def by_easyr1(settings: dict[str, Any], rows: list[Sample], texts: list[str]) -> list[float | None]:
    inputs = [
        {"response": text, "response_length": len(text), "ground_truth": scoring.pack(row)}
        for row, text in zip(rows, texts, strict=True)
    ]
    found = easyr1.compute_score(inputs, settings=json.dumps(settings))
    assert len({tuple(item) for item in found}) == 1
    return [item["overall"] for item in found]


def by_vlm_r1(settings: dict[str, Any], rows: list[Sample], texts: list[str]) -> list[float | None]:
    reward = vlm_r1.reward_registry(settings)["accuracy"]
    solutions = [f"<answer> {scoring.pack(row)} </answer>" for row in rows]
    completions = [[{"role": "assistant", "content": text}] for text in texts]
    return reward(completions, solutions, accu_reward_method=["default"] * len(texts), image_path=[])


ADAPTERS: list[Adapter] = [by_trl, by_trl_columns, by_verl, by_swift, by_easyr1, by_vlm_r1]


@pytest.mark.parametrize("strip", [False, True], ids=["whole", "stripped"])
@pytest.mark.parametrize("adapter", ADAPTERS, ids=lambda adapter: adapter.__name__)
def test_same_rewards_to_the_last_bit(adapter: Adapter, strip: bool) -> None:
    assert len(ANSWERS) >= 200
    for settings in SETTINGS:
        task = scoring.task_of(settings)
        chosen = [(row, text) for made_for, row, text in ANSWERS if made_for is settings]
        rows = [row for row, _ in chosen]
        texts = [SPECIAL.sub("", text) if strip else text for _, text in chosen]
        expected = [task.score(row, text).reward for row, text in zip(rows, texts, strict=True)]
        assert adapter(settings, rows, texts) == expected
        assert len(set(expected)) > 3


@pytest.mark.parametrize("settings", SETTINGS, ids=lambda s: f"{s['task']}-{s['family']}")
def test_gold_answers_are_read_without_their_special_tokens_too(settings: dict[str, Any]) -> None:
    task = scoring.task_of(settings)
    for sample in samples(settings):
        gold = task.gold(sample)
        whole, stripped = task.score(sample, gold), task.score(sample, SPECIAL.sub("", gold))
        assert stripped.pred_xyxy == whole.pred_xyxy
        # The released format reward of grounding asks for the special tokens themselves: 0 for all, so no advantage.
        lost = 1.0 if settings.get("reward") == {"preset": "released"} and task.name == "grounding" else 0.0
        assert stripped.reward == pytest.approx(whole.reward - lost, abs=1e-12)
        assert stripped.reward > 0.5


def test_trl_decodes_ids_itself_and_knows_a_cut_answer() -> None:
    pytest.importorskip("transformers")
    from perception_r1.models.tiny import build_processor

    tokenizer = build_processor("qwen2_vl").tokenizer
    settings = SETTINGS[2]
    rows = samples(settings)
    task = scoring.task_of(settings)
    (reward,) = trl.reward_functions(settings, tokenizer=tokenizer)
    logged: dict[str, float] = {}
    texts = [task.gold(row) for row in rows]
    ids = [tokenizer(text)["input_ids"] + [tokenizer.eos_token_id] for text in texts]
    packed = [scoring.pack(row) for row in rows]
    context = {"row": packed, "log_metric": logged.__setitem__}
    assert asyncio.run(reward(completions=[], completion_ids=ids, **context)) == [
        task.score(row, Completion(text, "stop")).reward for row, text in zip(rows, texts, strict=True)
    ]
    assert {"components/count", "components/share_truncated"} <= logged.keys()
    asyncio.run(reward(completions=[], completion_ids=[item[:-1] for item in ids], **context))
    assert logged["components/share_truncated"] == 1


def test_not_scored_is_counted_and_logged(tmp_path: Path, monkeypatch: Any, caplog: Any) -> None:
    (tmp_path / "silent_reward.py").write_text("def score(sample, completion, parsed, match):\n    return None\n")
    monkeypatch.syspath_prepend(tmp_path)
    settings = {"task": "ocr", "family": "qwen3_vl", "reward": {"function": "silent_reward:score"}}
    (row,) = samples({**settings, "task": "ocr"})[:1]
    scorer = scoring.Scorer(settings, unscored=-1.0)
    record = scorer.record("text", scoring.pack(row))
    assert record.reward is None
    with caplog.at_level("WARNING", "perception_r1"):
        assert [scorer.reward(record) for _ in range(3)] == [-1.0] * 3
    assert scorer.n_unscored == 3
    assert caplog.messages == ["1 answers not scored, given -1.0 (not scored: the reward function gave None)"]
    assert scorer.numbers(record)["not_scored"] == 1.0
    assert by_trl(settings, [row], ["text"]) == by_swift(settings, [row], ["text"]) == [None]
    assert by_verl(settings, [row], ["text"]) == by_easyr1(settings, [row], ["text"]) == [0.0]


def test_easyr1_knows_a_cut_answer_by_its_length() -> None:
    settings = SETTINGS[4]
    row = samples(settings)[3]
    text = scoring.task_of(settings).gold(row)
    for length, reason in ((10, "stop"), (64, "length")):
        item = {"response": text, "response_length": length, "ground_truth": scoring.pack(row)}
        (found,) = easyr1.compute_score([item], settings=json.dumps(settings), max_response_length=64)
        assert found["overall"] == scoring.task_of(settings).score(row, Completion(text, reason)).reward
        assert found["is_truncated"] == (reason == "length")


def test_settings_from_a_file_and_what_is_wrong_with_them(tmp_path: Path) -> None:
    file = tmp_path / "task.json"
    file.write_text(json.dumps(SETTINGS[0]))
    made = make_task("grounding", family="qwen2_vl", reward="released")
    assert scoring.task_of(file) == scoring.task_of(str(file)) == made
    assert scoring.task_of(made) is made
    for bad, message in (
        ("nowhere.json", "cannot be read"),
        ("{", "not JSON"),
        ({"task": "ocr"}, "family"),
        ({"task": "ocr", "family": "qwen3_vl", "rewards": 1}, "rewards"),
        ({"task": "ocr", "family": "gpt"}, "unknown family"),
    ):
        with pytest.raises(RecipeError, match=message):
            scoring.task_of(bad)
    with pytest.raises(DataError, match="not a packed row"):
        scoring.sample_of("[1, 2")


def test_adapters_are_thin_and_light() -> None:
    for name in ("trl", "verl", "swift", "easyr1", "vlm_r1"):
        # TRL's has the check of people's trainers beside it.
        assert len((ROOT / f"{name}.py").read_text().splitlines()) <= (200 if name == "trl" else 100)
    for module in (trl, verl, swift, easyr1, vlm_r1, scoring):
        assert not re.search(
            r"^(import|from) (torch|transformers|trl|swift|verl)\b", Path(module.__file__).read_text(), re.M
        )


def test_a_judge_is_asked_through_every_adapter() -> None:
    """The visual perception reward: verdicts are fetched first, then scored by the same function."""
    settings = {"task": "geometry", "family": "qwen2_5_vl", "reward": {"judge": {"kind": "lexical"}}}
    facts = ("AB = 5", "∠ABC = 90°", "CD ⊥ AB")
    target = AnswerTarget("12", facts)
    row = Sample("g", "geometry", "Find x.", target, None, (300, 200), (308, 196))
    form = "<think>\n{}\n</think>\n<answer>\n\\boxed{{{}}}\n</answer>"
    texts = [form.format(". ".join(facts[:k]) + ".", answer) for k in range(1, 4) for answer in (12, 7)]
    rows = [row] * len(texts)
    judge = scoring.judge_of(settings)
    assert judge is not None
    records = asyncio.run(
        scoring.score_batch(scoring.task_of(settings), judge, rows, [Completion(text) for text in texts])
    )
    expected = [record.reward for record in records]
    assert len(set(expected)) == 6
    score = verl.load(json.dumps(settings))
    assert asyncio.iscoroutinefunction(score)  # verl then awaits it

    async def all_of_verl() -> list[float]:
        calls = [score("pr1", text, scoring.pack(row), {}, reward_router_address=None) for text in texts]
        return [item["score"] for item in await asyncio.gather(*calls)]

    assert asyncio.run(all_of_verl()) == expected
    for adapter in (by_trl, by_swift, by_easyr1, by_vlm_r1):
        assert adapter(settings, rows, texts) == expected

    class AsyncORM:
        """The published base of ms-swift's awaited rewards."""

        def __init__(self, args: Any = None) -> None: ...

    reward = swift.reward_class(AsyncORM, settings)(args=None)
    assert asyncio.run(reward(texts, row=[scoring.pack(row)] * len(texts), finish_reason=None)) == expected
