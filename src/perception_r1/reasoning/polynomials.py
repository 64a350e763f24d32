"""Values as people write them beside a figure, compared: numbers, roots, fractions, and expressions in variables.

A tiny reader of polynomials, so that nothing that a model wrote is ever evaluated. What it cannot read stays text.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import TypeAlias

Monomial: TypeAlias = tuple[tuple[str, int], ...]
Polynomial: TypeAlias = dict[Monomial, float]
Value: TypeAlias = tuple[tuple[Monomial, float], ...] | str
"""A polynomial as sorted (monomial, coefficient) pairs, or the text where it is not a polynomial."""

_TOKEN = re.compile(r"\s*(?:(\d+(?:\.\d+)?)|(sqrt|pi|[A-Za-z])|([-+*/^()]))")
_MAX_CHARS, _MAX_DEPTH, _MAX_POWER, _MAX_TERMS = 80, 12, 6, 24


class _UnreadableError(Exception):
    """Not a polynomial that we read."""


@lru_cache(maxsize=16384)
def read_value(text: str) -> Value:
    """The value of an expression; text without blanks where it is no polynomial.

    Example:
        >>> read_value("2(x + 3)") == read_value("6+2x")
        True
        >>> read_value("6/4") == read_value("1.5")
        True
    """
    bare = "".join(text.split())
    if len(bare) > _MAX_CHARS:
        return bare
    try:
        tokens = _tokens(bare)
        reader = _Reader(tokens)
        found = reader.sum(0)
        if reader.at != len(tokens):
            raise _UnreadableError
    except (_UnreadableError, OverflowError, ZeroDivisionError):
        return bare
    return tuple(sorted((mono, round(factor, 9)) for mono, factor in found.items() if abs(factor) > 1e-12))


def number_of(value: Value) -> float | None:
    """The number that a value is, or None.

    Example:
        >>> number_of(read_value("3*4"))
        12.0
    """
    if isinstance(value, str):
        return None
    if not value:
        return 0.0
    return value[0][1] if len(value) == 1 and value[0][0] == () else None


def same_value(a: Value, b: Value) -> bool:
    """Whether two values are equal: numbers to 1e-6 (relative), polynomials term by term."""
    x, y = number_of(a), number_of(b)
    if x is not None and y is not None:
        return math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-9)
    if isinstance(a, str) or isinstance(b, str):
        return a == b
    return len(a) == len(b) and all(
        m == n and math.isclose(x, y, rel_tol=1e-6, abs_tol=1e-9) for (m, x), (n, y) in zip(a, b, strict=True)
    )


def rounds_to(a: float, b: float) -> bool:
    """Whether one number is the other, rounded to fewer decimals (5.196 and 5.2).

    Example:
        >>> rounds_to(5.196, 5.2), rounds_to(40, 41)
        (True, False)
    """
    return any(
        math.isclose(round(a, digits), b, abs_tol=1e-9) or math.isclose(round(b, digits), a, abs_tol=1e-9)
        for digits in range(4)
    )


def differ_by_a_number(a: Value, b: Value) -> bool:
    """Whether both hold variables and their difference is a number other than 0: they can never be equal.

    Example:
        >>> differ_by_a_number(read_value("3x+5"), read_value("3x+6"))
        True
        >>> differ_by_a_number(read_value("3x+5"), read_value("2x+10"))
        False
    """
    if isinstance(a, str) or isinstance(b, str) or number_of(a) is not None or number_of(b) is not None:
        return False
    rest_a = [term for term in a if term[0] != ()]
    rest_b = [term for term in b if term[0] != ()]
    return rest_a == rest_b and not same_value(a, b)


def _tokens(text: str) -> list[str]:
    tokens, at = [], 0
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise _UnreadableError
        tokens.append(found[1] or found[2] or found[3])
        at = found.end()
    return tokens


class _Reader:
    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at = tokens, 0

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def sum(self, depth: int) -> Polynomial:
        if depth > _MAX_DEPTH:
            raise _UnreadableError
        total: Polynomial = {}
        sign = 1.0
        if self.peek() in ("+", "-"):
            sign = -1.0 if self.tokens[self.at] == "-" else 1.0
            self.at += 1
        while True:
            for mono, factor in self.product(depth).items():
                total[mono] = total.get(mono, 0.0) + sign * factor
            if self.peek() not in ("+", "-"):
                return total
            sign = -1.0 if self.tokens[self.at] == "-" else 1.0
            self.at += 1

    def product(self, depth: int) -> Polynomial:
        total = self.power(depth)
        while self.peek() not in ("", "+", "-", ")"):
            operator = self.peek()
            if operator in "*/":
                self.at += 1
            factor = self.power(depth)
            if operator == "/":
                number = number_of(_value(factor))
                if not number:
                    raise _UnreadableError
                factor = {(): 1.0 / number}
            total = _times(total, factor)
        return total

    def power(self, depth: int) -> Polynomial:
        base = self.atom(depth)
        if self.peek() != "^":
            return base
        self.at += 1
        exponent = number_of(_value(self.atom(depth)))
        if exponent is None or exponent != int(exponent) or not 0 <= exponent <= _MAX_POWER:
            raise _UnreadableError
        total: Polynomial = {(): 1.0}
        for _ in range(int(exponent)):
            total = _times(total, base)
        return total

    def atom(self, depth: int) -> Polynomial:
        token = self.peek()
        self.at += 1
        if token == "(":
            inside = self.sum(depth + 1)
            if self.peek() != ")":
                raise _UnreadableError
            self.at += 1
            return inside
        if token == "pi":
            return {(): math.pi}
        if token == "sqrt":
            number = number_of(_value(self.atom(depth + 1)))
            if number is None or number < 0:
                raise _UnreadableError
            return {(): math.sqrt(number)}
        if token[:1].isdigit():
            return {(): float(token)}
        if token.isalpha():
            return {((token, 1),): 1.0}
        raise _UnreadableError


def _times(a: Polynomial, b: Polynomial) -> Polynomial:
    total: Polynomial = {}
    for mono_a, x in a.items():
        for mono_b, y in b.items():
            powers = dict(mono_a)
            for name, power in mono_b:
                powers[name] = powers.get(name, 0) + power
            mono = tuple(sorted(powers.items()))
            total[mono] = total.get(mono, 0.0) + x * y
    if len(total) > _MAX_TERMS:
        raise _UnreadableError
    return total


def _value(polynomial: Polynomial) -> Value:
    return tuple(sorted((mono, factor) for mono, factor in polynomial.items() if abs(factor) > 1e-12))
