"""The visual perception reward: what each part pays, what broke the released one, and what the judge cannot undo."""

from __future__ import annotations

import random
import re
import time

import pytest

from perception_r1.reasoning import released
from perception_r1.tasks import Task, make_task
from perception_r1.types import AnswerTarget, Completion, RewardRecord, Sample

pytest.importorskip("math_verify")

FACTS = ("AB = 5", "∠ABC = 40°", "AB ∥ CD", "CD = 7")
SAMPLE = Sample("1", "geometry", "In the figure, CD = 7. Find AC.", AnswerTarget("2\\sqrt{3}", FACTS))


def answer(think: str, box: str = "\\boxed{2\\sqrt{3}}") -> str:
    return f"<think>\n{think}\n</think>\n<answer>\n{box}\n</answer>"


def task(preset: str = "robust") -> Task:
    return make_task("geometry", family="qwen2_5_vl", reward=preset)


def score(text: str, preset: str = "robust", **kwargs: object) -> RewardRecord:
    return task(preset).score(SAMPLE, Completion(text, "stop"), **kwargs)  # type: ignore[arg-type]


def test_an_answer_with_two_values_is_right_where_the_gold_has_both() -> None:
    sample = Sample("1", "geometry", "Find x.", AnswerTarget("x=3 \\text{ or } x=-3"))

    def accuracy(box: str) -> float:
        return task().score(sample, Completion(answer("x", f"\\boxed{{{box}}}"), "stop")).components["accuracy"]

    assert accuracy("x=3 \\text{ or } x=-3") == accuracy("-3 or 3") == 1
    assert accuracy("3 or 4") == accuracy("3 or 3") == accuracy("3 or -3 or 4") == accuracy("3") == 0
    nested = score(answer("x", "\\boxed{7\\boxed{2\\sqrt{3}}}"))
    assert (nested.components["accuracy"], nested.components["format"]) == (0, 0)
    assert nested.reason.startswith("no readable answer: more than one boxed answer")


def test_the_released_patterns_in_linear_time() -> None:
    form = re.compile(r"<think>\n.*?\n</think>\n<answer>\n.*?\\boxed\{.+?\}.*?\n</answer>", re.DOTALL)
    block = re.compile(r"<answer>(.*?)</answer>")
    pieces = ["<think>\n", "\n</think>\n<answer>\n", "\n</answer>", "\\boxed{", "}", "a", "\n", "<answer>", "</answer>"]
    draw = random.Random(0)
    seen = set()
    for _ in range(20_000):
        inside = "".join(draw.choices(pieces, k=draw.randint(0, 7)))
        text = f"<think>\n{inside}\n</answer>" if draw.random() < 0.7 else inside
        found = block.search(text)
        assert released._released_block(text) == (found[1] if found else None), repr(text)
        seen.add(released._released_form(text))
        assert released._released_form(text) == (form.fullmatch(text) is not None), repr(text)
    assert seen == {True, False}
    hostile = "<think>\n" + "\n</think>\n<answer>\n\\boxed{a}" * 2000
    start = time.process_time()
    assert task("released").score(SAMPLE, Completion(hostile + "<answer>" * 5000, "stop")).components["format"] == 0
    assert time.process_time() - start < 5


def test_the_gold_answer_earns_everything() -> None:
    record = score(task().gold(SAMPLE))
    assert record.reward == pytest.approx(0.9 + 0.1 + 0.7)
    assert record.components == {"accuracy": 1, "format": 1, "visual": 1, "repetition": 0}
    assert (record.n_valid, record.n_target) == (3, 3)  # CD = 7 is in the question
    assert record.reason == "right answer; 3 of 3 visual facts stated"


def test_paper_is_the_released_sum() -> None:
    sample = Sample("1", "geometry", "Find AC.", AnswerTarget("12", FACTS))
    text = answer("AB = 5. CD = 7.", "So it is \\boxed{12}.")
    record = task("released").score(sample, Completion(text, "stop"))
    assert record.components["visual"] == pytest.approx(2 / (4 + 1e-6), abs=1e-12)
    assert record.reward == pytest.approx(0.9 + 0.1 + 0.7 * 2 / (4 + 1e-6), abs=1e-12)


def test_paper_verdicts_stop_at_the_first_missing_one() -> None:
    """Truncated verdicts shrink the denominator there, and count against the whole here."""
    evidence = {"scores": [1.0, 0.5, None, 1.0]}
    text = answer("x", "\\boxed{0}")
    assert score(text, "released", evidence=evidence).components["visual"] == pytest.approx(1.5 / (2 + 1e-6))
    assert score(text, evidence=evidence).components["visual"] == pytest.approx(2 / 3)  # CD = 7 does not count


def test_flaws_of_the_released_accuracy() -> None:
    sample = Sample("1", "geometry", "Find AC.", AnswerTarget("12", ()))
    only_thought = Completion("<think>\n\\boxed{12}\n</think>\n<answer>\n</answer>", "stop")
    assert task("released").score(sample, only_thought).components["accuracy"] == 1
    assert task().score(sample, only_thought).components["accuracy"] == 0
    # the bare gold 2\sqrt{3} is read as 2
    assert score(answer("x"), "released").components["accuracy"] == 0
    assert score(answer("x", "\\boxed{2}"), "released").components["accuracy"] == 1
    assert score(answer("x")).components["accuracy"] == 1
    assert score(answer("x", "\\boxed{2}")).components["accuracy"] == 0


@pytest.mark.parametrize(
    "text",
    [
        answer("x", "\\boxed{1} \\boxed{2\\sqrt{3}}"),
        answer("x", "\\boxed{1, 2, 2\\sqrt{3}}"),
        answer("x", "\\boxed{1 \\text{ or } 2\\sqrt{3}}"),
        answer("x") + answer("x"),
        "\\boxed{2\\sqrt{3}}",
        "<think>\nx\n</think>\n<answer>\n\\boxed{2\\sqrt{3}}",
        "",
        "<answer>",
    ],
)
def test_hedged_or_misplaced_answers_are_wrong(text: str) -> None:
    assert score(text).components["accuracy"] == 0


def test_an_answer_without_a_box_is_right_but_not_in_form() -> None:
    record = score(answer("x", "2\\sqrt{3}"))
    assert (record.components["accuracy"], record.components["format"]) == (1, 0)


@pytest.mark.parametrize("preset", ["robust", "released"])
def test_format(preset: str) -> None:
    assert score(answer("x"), preset).components["format"] == 1
    assert score("Well. " + answer("x"), preset).components["format"] == 0
    assert score(answer("x", "12"), preset).components["format"] == 0
    assert score(answer("x").replace("<think>", "<thinking>"), preset).components["format"] == 0


def test_a_fact_with_its_contradiction_earns_nothing_even_if_the_judge_says_so() -> None:
    text = answer("AB = 5. AB = 6. ∠ABC = 40°.")
    assert score(text).components["visual"] == pytest.approx(1 / 3)
    assert score(text, evidence={"scores": [1, 1, 1, 1]}).components["visual"] == pytest.approx(2 / 3)
    assert score(
        answer("x"), evidence={"scores": [1, 1, 1, 1], "contradicted": [False, True, False, False]}
    ).components["visual"] == pytest.approx(2 / 3)


def test_copying_the_question_earns_nothing() -> None:
    assert score(answer(SAMPLE.question)).components["visual"] == 0


def test_without_facts_of_its_own_a_problem_is_weighed_by_the_rest() -> None:
    sample = Sample("1", "geometry", "CD = 7. Find AC.", AnswerTarget("12", ("CD = 7",)))
    record = task().score(sample, Completion(answer("x", "\\boxed{12}"), "stop"))
    assert "visual" not in record.components
    assert record.reward == pytest.approx(
        1.0 * 2.7 / 2.0
    )  # 0.7 goes to 0.9, 0.1 and the 1.0 of repetition, in proportion


def test_a_failed_judge_is_not_scored_and_never_zero() -> None:
    record = score(answer("AB = 5"), evidence={"failure": "the judge does not answer"})
    assert record.reward is None
    assert record.reason == "not scored: the judge does not answer"
    assert record.components["accuracy"] == 1
    assert score(answer("x"), evidence={"scores": [1]}).reward is None  # not one a fact


def test_loops_are_penalised_where_20_grams_see_nothing() -> None:
    short_loop = answer("the cat sat " * 6)
    unspaced = answer("ab" * 400)
    assert score(unspaced, "released").components["repetition"] == 0
    assert score(unspaced).components["repetition"] < -1.5
    assert score(short_loop).components["repetition"] < -1
    sample_text = answer(" ".join(str(i) for i in range(200)))
    assert score(sample_text).components["repetition"] == 0
    # 40 words said twice: 61 20-grams, 41 different ones (twenty of the second half repeat)
    words = " ".join(f"w{i}" for i in range(40))
    assert score(f"{words} {words}", "released").components["repetition"] == pytest.approx(-2 * (1 - 40 / 61), abs=1e-9)


def test_prompt_ends_with_the_papers_words() -> None:
    prompt = task().prompt(SAMPLE)
    assert prompt.user.startswith("In the figure, CD = 7. Find AC. You FIRST think")
    assert prompt.user.endswith("The final answer MUST BE put in \\boxed{} in <answer> </answer> tags.")
    assert prompt.system is None


def test_battery_of_hacks() -> None:
    """``robust`` pays for none; what the released formula pays for is known, and `pr1 check` warns of it."""
    from perception_r1.tasks.hacks import audit

    facts = ("AB = 5", "∠ABC = 40°", "AB ∥ CD")
    sample = Sample("1", "geometry", "Find AC.", AnswerTarget("12", facts))
    numbers = Sample("2", "geometry", "Find AC.", AnswerTarget("12", ("AB = 5", "BC = 7")))
    found = audit(task(), [sample, numbers])
    assert len({one.name for one in found}) == 16
    assert [one.name for one in found if not one.ok] == []
    paid = {one.name for one in audit(task("released"), [sample, numbers]) if not one.ok}
    assert paid >= {"answer only in <think>", "every fact and its opposite", "all values", "a loop without blanks"}
