"""Answer checking: right forms are right, and no answer stops the program."""

from __future__ import annotations

import threading
import time

import pytest

from perception_r1.reasoning import equivalence
from perception_r1.reasoning.equivalence import boxes, same_answer, unboxed, verified

pytest.importorskip("math_verify")


@pytest.mark.parametrize(
    ("given", "gold"),
    [
        ("12", "12"),
        ("12.0", "12"),
        ("2\\sqrt{3}", "2\\sqrt{3}"),
        ("\\sqrt{12}", "2\\sqrt{3}"),
        ("\\frac{1}{2}", "0.5"),
        ("30^\\circ", "30"),
        ("x=3", "3"),
        ("B", "B"),
        ("12\\text{ cm}", "12"),
        ("\\frac{\\sqrt{2}}{2}", "\\frac{1}{\\sqrt{2}}"),
        ("36\\pi", "36 \\pi"),
        ("\\boxed{4}", "4"),
        ("45°", "45"),
        ("45", "45°"),
        ("64\\degree", "64"),
        ("64^{\\circ}", "64°"),
        ("2√3", "2\\sqrt{3}"),
        ("9\\,cm", "9"),
        ("**9**", "9"),
        ("√(12)", "2\\sqrt{3}"),
        ("x = 4°", "4"),
    ],
)
def test_right(given: str, gold: str) -> None:
    assert same_answer(given, gold)


@pytest.mark.parametrize(
    ("given", "gold"),
    [
        ("2", "2\\sqrt{3}"),
        ("", "2"),
        ("1, 2, 3", "2"),
        ("13", "12"),
        ("A", "B"),
        ("3.46", "2\\sqrt{3}"),
        ("1" * 500, "1"),
    ],
)
def test_wrong(given: str, gold: str) -> None:
    assert not same_answer(given, gold)


@pytest.mark.parametrize("given", ["9^{9^{9^{9}}}", "99999!", "3!!!!!", "10^{100000}", "((" * 150, "\\frac" * 70])
def test_hostile_answers_are_wrong_and_quick(given: str) -> None:
    start = time.monotonic()
    assert not same_answer(given, "4")
    assert time.monotonic() - start < equivalence.PATIENCE_S  # the worker may have to start


def test_a_worker_that_hangs_is_ended_and_the_next_answer_is_checked() -> None:
    assert verified("\\boxed{7}", "\\boxed{7}")
    before = equivalence._WORKER.process
    assert before is not None
    before.kill()  # as the system would, out of memory
    before.wait()
    assert verified("\\boxed{\\frac{14}{2}}", "\\boxed{7}")
    assert equivalence._WORKER.process is not before


def test_works_outside_the_main_thread() -> None:
    """Where a trainer's asynchronous reward runs; math-verify's own time limit does not work there."""
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(same_answer("\\frac{6}{4}", "\\frac{3}{2}")))
    thread.start()
    thread.join()
    assert found == [True]


def test_boxes_balance_braces() -> None:
    assert boxes("a \\boxed{\\frac{1}{2}} b \\boxed{3} \\boxed{4") == ["\\frac{1}{2}", "3"]
    assert unboxed("5") == "5"
