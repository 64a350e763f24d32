"""The judge without an LLM: one fact in many notations, contradictions, sprays, and time linear in the text."""

from __future__ import annotations

import time
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_r1.reasoning.facts import MAX_CHARS, statements, unasked, verdict

STATED = [
    ("AB = 5", "the length of side AB is 5"),
    ("AB = 5", "CD = AB = 5"),
    ("AB = 5", "Since BA equals 5.0, we"),
    ("AB = 2\\sqrt{3}", "AB = 2√3"),
    ("AB = \\frac{3}{2}", "AB=1.5"),
    ("AB = 3x+5", r"We have \overline{AB} = 3x + 5 = 2x + 10, so x=5"),
    ("AB = 3x+5", "AB is 5 + 3x"),
    ("AB = 2(x+3)", "AB = 2x + 6"),
    ("∠ABC = 40°", r"$m\angle CBA = 40^\circ$"),
    ("∠ABC = 40°", "angle ABC measures 40 degrees"),
    ("∠ABC = 40°", "the angle CBA is 40 degrees"),
    ("∠ABC = 40°", "angle B measures 40 degrees"),
    ("∠ACB = 90°", "The triangle is right-angled at C"),
    ("∠ACB = 90°", "∠ACB is a right angle"),
    ("∠ABC = ∠DEF", r"\angle ABC \cong \angle FED"),
    ("$m\\angle Q = (2x + 5)^\\circ$", r"- \( \angle Q = (2x + 5)^\circ \)"),
    ("Length of side $JK$ is given as $3f - 6$.", r"- \( \overline{JK} \) is \( 3f - 6 \)"),
    ("AB ∥ CD", "AB and CD are parallel"),
    ("AB ∥ CD", r"$\overline{CD} \parallel \overline{AB}$"),
    ("AB is perpendicular to CD", "AB ⊥ DC"),
    ("ABCD is a parallelogram.", "In parallelogram ABCD we"),
    ("triangle ABC is isosceles", "isosceles triangle ABC"),
    ("∠ABC = 40°", "∠ABC = 180° - 100° - 40° = 40°"),
    ("AB = 5", r"AB = \sqrt{3^2 + 4^2} = \sqrt{9 + 16} = \sqrt{25} = 5"),
    ("AB = 5", "AB = x = 5"),
    ("AB = 5", "AB = 5 or BC = 6"),
    ("AB = 5", "AB is 5 or so"),
    ("the radius of circle O is 4", "circle O has radius 4"),
    ("the radius of circle O is 4", "the radius is 4"),
    ("arc AB = 80°", r"\widehat{AB} = 80^\circ"),
    ("D lies on AB", "point D is on line AB"),
    ("M is the midpoint of AB", "M is midpoint of BA"),
    ("AT is tangent to circle O", "AT is tangent to the circle"),
    ("Angle ABD and Angle CDB are alternate interior angles.", "Angles ABD and CDB are alternate interior angles"),
    ("AB = BC", "AB = BC = CD = DE = EF = FA"),
    ("OA = OB", "OA = OB = OC = OD = OE, and OA = OF"),
    ("D lies on AB", "D lies on AB, D lies on AE, and E lies on AB"),
    ("The bar for May is 30", "The bars for Jan, Feb, Mar and May are 10, 20, 25 and 30."),
    ("The bar for May is 30", "The bar for May is 30 and that for June is 40. They differ by 10."),
    ("The bar for Tom is twice as high as the bar for Ann.", "the bar for Tom is twice as high as the bar for Ann"),
]
CONTRADICTED = [
    ("AB = 5", "AB = 1, AB = 2, AB = 5"),
    ("AB = 5", "AB = 5 and AB ≠ 5"),
    ("AB = 5", "AB is not 5 but 6"),
    ("AB = 5", "AB is 5 or 6 or 7"),
    ("AB = 5", "AB = 5 = 6"),
    ("AB = 5", "AB = 5. I don't think that AB = 5."),
    ("∠ABC = 40°", "∠ABC = 40° or 41°"),
    ("The bar for May is 30", "The bar for May is 30. The bar for May is 31."),
    ("The bar for May is 30", "The bar for May is 30, 31, 32"),
    ("The bar for May is 30", "The bar for May is not 30."),
    ("AB = 3x+5", "AB = 3x + 5 and AB = 3x + 6"),
    ("AB = 3x+5", "AB = 3x+5. AB = 2x. AB = 4y - 1."),
    ("∠ABC = 40°", "∠ABC = 40°. ∠ABC = 41°."),
    ("AB ∥ CD", "AB ∥ CD and AB ⊥ CD"),
    ("AB ∥ CD", "AB is not parallel to CD"),
    ("ABCD is a kite", "ABCD is a kite. ABCD is not a kite."),
    ("AB = 5", "AB = 5. It is not so that AB = 5."),
    ("AB ∥ CD", "It is false that AB ∥ CD"),
    ("D lies on AB", "D lies on AB. It is not true that point D lies on AB"),
    ("AB = AC", "AB = AC, not AB = AC"),
    ("ABCD is a kite", "kite ABCD, rectangle ABCD, rhombus ABCD, trapezoid ABCD"),
    ("Tom has more apples.", "Tom has more apples. Tom has not more apples."),
    ("The bar for May is 30", f"Maybe the bar for May is {' '.join(map(str, range(1, 100)))}."),
    ("The bar for May is 30", ". ".join(f"Maybe the bar for May is {k}" for k in range(40))),
]
ABSENT = [
    ("AB = 5", "AC = 5"),
    ("AB = 5", ""),
    ("Measure of angle ABD = $(4y + 4)^\\circ$", r"Angle A is labeled as \( (4x + 5)^\circ \)"),
    ("$JKLM$ is a parallelogram.", "JKLM is a rectangle"),
    ("AB ∥ CD", "AB and EF are parallel"),
    ("AB = CD", "AB and CD are lines"),
    ("...", "anything"),
]


@pytest.mark.parametrize(("fact", "text"), STATED)
def test_stated(fact: str, text: str) -> None:
    assert verdict(text, fact) == "stated"


@pytest.mark.parametrize(("fact", "text"), CONTRADICTED)
def test_contradicted(fact: str, text: str) -> None:
    assert verdict(text, fact) == "contradicted"


@pytest.mark.parametrize(("fact", "text"), ABSENT)
def test_absent(fact: str, text: str) -> None:
    assert verdict(text, fact) == "absent"


def test_a_value_that_is_worked_out_later_is_no_contradiction() -> None:
    """∠ABC = 3x + 5, and with x = 10 it is 35: both are true."""
    text = "∠ABC = 3x + 5. With x = 10 we get ∠ABC = 3(10) + 5 = 35."
    assert verdict(text, "∠ABC = 3x + 5") == "stated"
    assert verdict("AB = 5.196, that is AB ≈ 5.2", "AB = 5.196") == "stated"


SEGMENTS = [a + b for a, b in combinations("ABCDE", 2)]
SPRAYS = [
    ("the radius of circle O is 4", ". ".join(f"the radius is {k}" for k in range(1, 20))),
    ("∠ABC = 40°", ". ".join(f"∠B = {k}°" for k in range(1, 180))),
    ("AB ∥ CD", ". ".join(f"{a} ∥ {b}" for a, b in combinations(SEGMENTS, 2))),
    ("AB ⊥ CD", ". ".join(f"{a} ⊥ {b}" for a, b in combinations(SEGMENTS, 2))),
    ("AB = CD", ". ".join(f"{a} = {b}" for a, b in combinations(SEGMENTS, 2))),
    ("AB = CD", ". ".join(f"AB = {b}" for b in SEGMENTS[1:])),
    ("C is the midpoint of AB", ". ".join(f"{p} is the midpoint of AB" for p in "CDEFG")),
    ("C is the midpoint of AB", ". ".join(f"C is the midpoint of {a}" for a in SEGMENTS)),
    ("C lies on AB", ". ".join(f"{p} lies on {a}" for p in "ABCDE" for a in SEGMENTS if p not in a)),
    ("AB is a diameter of circle O", ". ".join(f"{a} is a diameter of circle O" for a in SEGMENTS)),
    ("AB is tangent to circle O", ". ".join(f"{a} is tangent to circle O" for a in SEGMENTS)),
]


@pytest.mark.parametrize(("fact", "text"), SPRAYS)
def test_lists_of_guesses_state_nothing(fact: str, text: str) -> None:
    assert verdict(text, fact) != "stated"


def test_facts_of_the_question_and_repeated_facts_do_not_count() -> None:
    facts = ("AB = 5", "AC = 7", "the length of AC is 7", "AB ∥ CD")
    assert unasked("In the figure, AB = 5. Find BC.", facts) == (1, 3)
    assert unasked("", facts) == (0, 1, 3)


HOSTILE = [
    "AB = 5 ",
    "((((",
    "1+",
    "\\text{",
    "A",
    " ",
    "the ",
    "AB is",
    "∠",
    "\\frac{1}{2}",
    "AB=AB=",
    "is not ",
    "^{",
]


@pytest.mark.parametrize("piece", HOSTILE)
def test_time_is_linear_whatever_the_text_holds(piece: str) -> None:
    text = "AB = " + piece * (MAX_CHARS // len(piece))
    start = time.process_time()
    verdict(text, "AB = 5")
    assert time.process_time() - start < 6  # quadratic time would be minutes


def test_time_is_linear_in_different_expressions_for_one_quantity() -> None:
    text = "".join(f"AB={k}y\n" for k in range(1, MAX_CHARS // 8))
    start = time.process_time()
    assert verdict(text, "AB = 5") == "contradicted"
    assert time.process_time() - start < 6


@given(st.text(alphabet="ABCD∠=≠° 0123456789.+-x()\\{}$^abcdefilnopqrstu∥⊥,\n", max_size=300))
def test_never_raises(text: str) -> None:
    statements(text)
    verdict(text, "AB = 5")
    verdict("AB = 5", text)


@given(st.sampled_from(STATED), st.sampled_from(STATED))
def test_a_fact_states_itself_amid_others(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert verdict(f"{other[0]}.\n{one[0]}", one[0]) in ("stated", "contradicted")
    assert verdict(f"I see this. {one[0]}", one[0]) == "stated"
