from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perception_r1.reasoning.polynomials import differ_by_a_number, number_of, read_value, rounds_to, same_value


@pytest.mark.parametrize(
    ("a", "b"),
    [("2(x+3)", "6+2x"), ("6/4", "1.5"), ("sqrt(12)", "2sqrt(3)"), ("3x-x", "2x"), ("x^2", "x*x"), ("-(x-1)", "1-x")],
)
def test_equal(a: str, b: str) -> None:
    assert same_value(read_value(a), read_value(b))


@pytest.mark.parametrize(("a", "b"), [("x", "y"), ("3", "3.001"), ("2x", "2x+1"), ("x^7", "x^8"), ("1/0", "2/0")])
def test_not_equal(a: str, b: str) -> None:
    assert not same_value(read_value(a), read_value(b))


@pytest.mark.parametrize("text", ["1/0", "x/x", "9^9^9", "((1)", "__import__('os')", "1" * 100, "sqrt(x)", "", ")"])
def test_what_is_no_polynomial_stays_text(text: str) -> None:
    assert isinstance(read_value(text), str)


def test_helpers() -> None:
    assert number_of(read_value("3-3")) == 0.0
    assert number_of(read_value("x")) is None
    assert rounds_to(5.196, 5.2)
    assert rounds_to(5, 5.4)
    assert not rounds_to(40, 41)
    assert differ_by_a_number(read_value("3x+5"), read_value("3x+6"))
    assert not differ_by_a_number(read_value("3x+5"), read_value("3x+5"))
    assert not differ_by_a_number(read_value("5"), read_value("6"))


@given(st.text(alphabet="0123456789.+-*/^()xyz sqrtpi", max_size=90))
def test_never_raises(text: str) -> None:
    assert same_value(read_value(text), read_value(text))


@given(st.integers(-50, 50), st.integers(-50, 50), st.integers(-20, 20))
def test_reads_what_python_computes(a: int, b: int, c: int) -> None:
    value = number_of(read_value(f"({a})*({b})+({c})*({a}-({b}))"))
    assert value == pytest.approx(a * b + c * (a - b))
