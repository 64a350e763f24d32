"""Visual facts of plane geometry, read from words, symbols or LaTeX, and whether a text states them.

``verdict`` is the judge that needs no LLM: "angle ABC is 40 degrees", "$m\\angle CBA = 40^\\circ$" and "∠ABC=40°" are
one statement. A fact of an unknown kind is looked for by its words. Time is linear in the length of
the text; at most `MAX_CHARS` of it are read.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from perception_r1.reasoning.fact_sentences import Verdict, by_words
from perception_r1.reasoning.notation import MAX_CHARS, normalise
from perception_r1.reasoning.polynomials import Value, differ_by_a_number, number_of, read_value, rounds_to, same_value

__all__ = ["MAX_CHARS", "Statement", "Verdict", "normalise", "statements", "unasked", "verdict", "verdicts"]

_MOST_FORMS = 2
"""A quantity may be said in at most so many different expressions; more is a list of guesses."""
_MOST_KINDS = 3
_MOST_RELATED = {
    "parallel": 3,
    "perpendicular": 4,
    "midpoint": 3,
    "bisects": 4,
    "tangent": 8,
    "diameter": 4,
    "circle": 4,
}
"""To so many others one segment or point may be said to be related in one way (of ``tangent``, ``diameter`` and
``circle``: so many statements there may be); more is a list of guesses. Drawn diagrams have at most half as many."""
_MOST_LINKS = 4
"""``AB = CD = EF = 5``: a longer chain is not followed to its end."""
_MOST_EQUAL_ANGLES = 12
_EQUAL_LENGTHS = (0, 0, 1, 3, 5, 7, 9, 12, 14, 18, 20, 23, 27, 30, 33)
"""So many segments between n points of a plane can be equally long (the unit distance problem)."""


class Statement(NamedTuple):
    """One thing said. ``key`` is what of (canonical), ``value`` what is said of it; ``negated``: that it is not so."""

    relation: str
    key: tuple[str, ...]
    value: Value = ""
    negated: bool = False


_ATOM = r"(?:\d++(?:\.\d++)?+|sqrt|pi(?![a-z])|[a-z](?![a-z']))"
_VALUE = rf"[-+(]*+{_ATOM}(?:°?[ ]?[-+*/^()]++[ ]?[-+(]*+{_ATOM}|{_ATOM})*+\)*+"
_SEGMENT = r"[A-Z]'?[A-Z]'?(?![A-Za-z'])"
_TERM = rf"(?:∠ ?(?:[A-Z]{{3}}|[A-Z]|\d)(?![A-Za-z])|arc [A-Z]{{2,3}}(?![A-Za-z])|(?<![A-Za-z∠]){_SEGMENT})"
_RADIUS = r"(?:radius(?: of)?(?: circle)?(?: ([A-Z])(?![A-Za-z]))?|circle ([A-Z]) has (?:a )?radius(?: of)?)"
_EQUATION = re.compile(rf"({_TERM})\s*°?\s*(=|≠|\bis\b(?!\s+(?:not\b|a\b)))\s*")
_NEXT = re.compile(rf"({_TERM})|({_VALUE})")
_LINK = re.compile(r"\s*°?\s*=\s*")
_OTHER = re.compile(rf"\s*°?,?\s*(?:=|\bor\b)\s*({_VALUE})")
_RADIUS_IS = re.compile(rf"{_RADIUS}\s*(?:=|≠|\bis\b|:)?\s*({_VALUE})")
_PAIR = re.compile(rf"({_SEGMENT}) ?(∥|⊥|∦|⟂̸) ?({_SEGMENT})")
_PAIR_WORDS = re.compile(rf"({_SEGMENT}) and ({_SEGMENT}) are (not )?(parallel|perpendicular|equal|congruent)\b")
_SHAPES = "triangle|quadrilateral|parallelogram|rectangle|square|rhombus|trapezoid|trapezium|kite|pentagon|hexagon"
_ADJECTIVES = r"(?:(?:a |an )?((?:right(?:-angled)?|isosceles|equilateral|scalene|regular) )?)"
_SHAPE = re.compile(rf"\b{_ADJECTIVES}({_SHAPES}) ([A-Z]{{3,6}})(?![A-Za-z])", re.I)
_IS_SHAPE = re.compile(rf"(?<![A-Za-z∠])(?:({_SHAPES}) )?([A-Z]{{3,6}}) (?:is|be) (not )?{_ADJECTIVES}({_SHAPES})\b")
_IS_ADJECTIVE = re.compile(
    r"(?<![A-Za-z∠])(?:triangle )?([A-Z]{3,6}) is (not )?(right|isosceles|equilateral|scalene|regular)\b"
)
_RIGHT_AT = re.compile(r"right(?:-angled|-angle| angle)? (?:is )?at ([A-Z])(?![A-Za-z])")
_RIGHT_ANGLE = re.compile(r"∠ ?([A-Z]{3}|[A-Z])(?![A-Za-z]) is (not )?a right ∠? ?(?:angle)?")
_ON = re.compile(
    rf"(?<![A-Za-z∠])(?:point )?([A-Z])(?![A-Za-z]) (?:lies|is|lie) on (?:a )?"
    rf"(?:(circle)(?: ([A-Z])(?![A-Za-z]))?|({_SEGMENT}))"
)
_MIDPOINT = re.compile(rf"(?<![A-Za-z∠])([A-Z])(?![A-Za-z]) is (not )?(?:a )?midpoint of ({_SEGMENT})")
_TANGENT = re.compile(rf"({_SEGMENT}) is (not )?(?:a )?tangent (?:to|of) circle(?: ([A-Z])(?![A-Za-z]))?")
_DIAMETER = re.compile(rf"({_SEGMENT}) is (not )?(?:a )?diameter(?: of circle(?: ([A-Z])(?![A-Za-z]))?)?")
_CENTRE = re.compile(r"(?<![A-Za-z∠])([A-Z])(?![A-Za-z]) is (not )?(?:a )?cent(?:re|er) of circle")
_CIRCLE = re.compile(r"\bcircle(?: with (?:a )?cent(?:re|er))? ([A-Z])(?![A-Za-z])", re.I)
_BISECTS = re.compile(rf"({_SEGMENT}) (?:is a bisector of|bisects) ∠ ?([A-Z]{{3}}|[A-Z])(?![A-Za-z])")

_DENIED = re.compile(
    r"(?:\bnot|\bfalse|\bnever|\bwrong|\buntrue|n't)"
    r"(?: (?:so|true|case|correct|think|believe|say|claim|that|if|point|triangle|circle|line|a))*\s*$",
    re.I,
)
"""Words before a statement that take it back: "it is not so that AB = 5"."""


def verdict(text: str, fact: str) -> Verdict:
    """Whether ``text`` states ``fact``.

    ``contradicted``: the text also (or only) says something that cannot be true beside it: another number for the same
    length or angle, its negation, more than two different expressions for one quantity, or so many relations of one
    kind that they are a list of guesses (`_MOST_RELATED`). A name that may stand for the fact's own (∠B for ∠ABC, "the
    radius" for that of circle O) states nothing where the text gives it several values.

    Example:
        >>> verdict("Since AB = 5 and the angle CBA is 40 degrees, ...", "∠ABC = 40°")
        'stated'
        >>> verdict("AB = 5. AB = 6.", "AB = 5")
        'contradicted'
    """
    said = statements(text)
    wanted = statements(fact)
    if not wanted:
        return by_words(text, fact)
    # "the radius of circle O is 4" is about the radius; that O is a circle goes without saying
    wanted = tuple(one for one in wanted if one.relation != "circle") or wanted
    found = True
    for one in wanted:
        if any(_contradicts(other, one) for other in said) or _sprayed(said, one):
            return "contradicted"
        found = found and any(
            _states(other, one) and (other.key == one.key or other.key not in _unsettled(text)) for other in said
        )
    return "stated" if found else "absent"


def verdicts(text: str, facts: Iterable[str]) -> tuple[Verdict, ...]:
    """The verdict on each fact."""
    return tuple(verdict(text, fact) for fact in facts)


@lru_cache(maxsize=4096)
def unasked(question: str, facts: tuple[str, ...]) -> tuple[int, ...]:
    """Indices of the facts that the question does not itself state, and that no earlier fact says already.

    Example:
        >>> unasked("In triangle ABC, AB = 5. Find BC.", ("AB = 5", "AC = 7", "the length of AC is 7"))
        (1,)
    """
    kept: list[int] = []
    for index, fact in enumerate(facts):
        if question and verdict(question, fact) == "stated":
            continue
        if any(verdict(facts[other], fact) == "stated" for other in kept):
            continue
        kept.append(index)
    return tuple(kept)


@lru_cache(maxsize=2048)
def statements(text: str) -> tuple[Statement, ...]:
    """Everything that the text says of lengths, angles, arcs, radii, shapes and relations, each once, in order."""
    clean = normalise(text)
    found = [*_equations(clean), *_relations(clean), *_shapes(clean)]
    return tuple(dict.fromkeys(found))


@lru_cache(maxsize=2048)
def _unsettled(text: str) -> frozenset[tuple[str, ...]]:
    """Keys of the quantities that the text gives several numbers, or more expressions than `_MOST_FORMS`."""
    numbers: dict[tuple[str, ...], float] = {}
    forms: dict[tuple[str, ...], set[Value]] = {}
    found = set()
    for one in statements(text):
        if one.relation != "value" or one.negated:
            continue
        number = number_of(one.value)
        if number is None:
            forms.setdefault(one.key, set()).add(one.value)
            if len(forms[one.key]) > _MOST_FORMS:
                found.add(one.key)
        elif not (math.isclose(first := numbers.setdefault(one.key, number), number) or rounds_to(first, number)):
            found.add(one.key)
    return frozenset(found)


def _denied(clean: str, start: int) -> bool:
    return _DENIED.search(clean[max(0, start - 48) : start]) is not None


def _equations(clean: str) -> Iterable[Statement]:
    for start in _EQUATION.finditer(clean):
        key = _term(start[1])
        negated = (start[2] == "≠") != _denied(clean, start.start())
        at = start.end()
        for _ in range(_MOST_LINKS):
            part = _NEXT.match(clean, at)
            if part is None:
                break
            if part[1] is None:
                yield Statement("value", key, _value(part[2]), negated)
                yield from _other_values(clean, part.end(), key, negated)
                break
            if (other := _term(part[1]))[0] == key[0] and other != key:
                yield Statement("equal", (*sorted((key[-1], other[-1])), key[0]), "", negated)
            link = _LINK.match(clean, part.end())
            if link is None or negated:
                break
            at = link.end()
    for match in _RADIUS_IS.finditer(clean):
        yield Statement(
            "value",
            ("radius", match[1] or match[2] or ""),
            _value(match[3]),
            ("≠" in match[0]) != _denied(clean, match.start()),
        )
    for match in _RIGHT_ANGLE.finditer(clean):
        yield Statement("value", _term("∠" + match[1]), read_value("90"), match[2] is not None)
    for match in _RIGHT_AT.finditer(clean):
        yield Statement("value", ("angle", match[1]), read_value("90"))


def _other_values(clean: str, at: int, key: tuple[str, ...], negated: bool) -> Iterable[Statement]:
    """``AB = x = 5`` says both; ``AB is 5 or 6`` does not make up its mind, which is to say both as well."""
    for _ in range(_MOST_LINKS):
        part = _OTHER.match(clean, at)
        if part is None:
            return
        yield Statement("value", key, _value(part[1]), negated)
        at = part.end()


def _relations(clean: str) -> Iterable[Statement]:
    names = {"∥": "parallel", "∦": "parallel", "⊥": "perpendicular", "⟂̸": "perpendicular"}
    for match in _PAIR.finditer(clean):
        yield Statement(
            names[match[2]], _pair(match[1], match[3]), "", (match[2] in ("∦", "⟂̸")) != _denied(clean, match.start())
        )
    for match in _PAIR_WORDS.finditer(clean):
        negated = (match[3] is not None) != _denied(clean, match.start())
        if match[4] in ("parallel", "perpendicular"):
            yield Statement(match[4], _pair(match[1], match[2]), "", negated)
        else:
            yield Statement("equal", (*_pair(match[1], match[2]), "length"), "", negated)
    for match in _ON.finditer(clean):
        yield Statement(
            "on",
            (match[1], "circle " + (match[3] or "") if match[2] else _ends(match[4])),
            "",
            _denied(clean, match.start()),
        )
    for match in _MIDPOINT.finditer(clean):
        yield Statement(
            "midpoint", (match[1], _ends(match[3])), "", (match[2] is not None) != _denied(clean, match.start())
        )
    for match in _TANGENT.finditer(clean):
        yield Statement(
            "tangent", (_ends(match[1]), match[3] or ""), "", (match[2] is not None) != _denied(clean, match.start())
        )
    for match in _DIAMETER.finditer(clean):
        yield Statement("diameter", (_ends(match[1]),), "", (match[2] is not None) != _denied(clean, match.start()))
    for match in _CENTRE.finditer(clean):
        yield Statement("circle", (match[1],), "", (match[2] is not None) != _denied(clean, match.start()))
    for match in _CIRCLE.finditer(clean):
        yield Statement("circle", (match[1],))
    for match in _BISECTS.finditer(clean):
        yield Statement("bisects", (_ends(match[1]), _term("∠" + match[2])[1]))


def _shapes(clean: str) -> Iterable[Statement]:
    def kinds(points: str, negated: bool, *names: str | None) -> Iterable[Statement]:
        for name in names:
            if name and name.strip():
                word = name.strip().lower().removesuffix("-angled")
                key = "".join(sorted(points))
                yield Statement("kind", (key, "trapezoid" if word == "trapezium" else word), "", negated)

    for match in _SHAPE.finditer(clean):
        if match[3].isupper():
            yield from kinds(match[3], _denied(clean, match.start()), match[1], match[2])
    for match in _IS_SHAPE.finditer(clean):
        yield from kinds(match[2], _denied(clean, match.start()), match[1])
        yield from kinds(match[2], match[3] is not None, match[4], match[5])
    for match in _IS_ADJECTIVE.finditer(clean):
        yield from kinds(match[1], match[2] is not None, match[3])


def _value(text: str) -> Value:
    return read_value(text.replace("°", ""))


def _term(text: str) -> tuple[str, ...]:
    """``∠CBA`` → ("angle", "ABC"), ``BA`` → ("length", "AB"), ``arc BA`` → ("arc", "AB")."""
    if text[0] == "∠":
        name = text[1:].strip()
        return ("angle", min(name, name[::-1]))
    if text.startswith("arc "):
        name = text[4:]
        return ("arc", min(name, name[::-1]))
    return ("length", _ends(text))


def _ends(segment: str) -> str:
    points = re.findall(r"[A-Z]'?", segment)
    return "".join(sorted(points))


def _pair(a: str, b: str) -> tuple[str, ...]:
    return tuple(sorted((_ends(a), _ends(b))))


def _same_key(a: Statement, b: Statement) -> bool:
    if a.key == b.key:
        return True
    if a.relation == "value" and a.key[0] == b.key[0] == "angle":
        short, long = sorted((a.key[1], b.key[1]), key=len)
        return len(short) == 1 and len(long) == 3 and long[1] == short
    if a.relation == "value" and a.key[0] == b.key[0] == "radius":
        return "" in (a.key[1], b.key[1])
    # "tangent to the circle" where there is one circle only
    return (
        a.relation in ("tangent", "on")
        and a.key[0] == b.key[0]
        and (a.key[1].removeprefix("circle ") == "" or b.key[1].removeprefix("circle ") == "")
        and a.key[1].startswith("circle ") == b.key[1].startswith("circle ")
    )


def _states(said: Statement, fact: Statement) -> bool:
    if said.relation != fact.relation or said.negated != fact.negated or not _same_key(said, fact):
        return False
    return said.relation != "value" or same_value(said.value, fact.value)


def _contradicts(said: Statement, fact: Statement) -> bool:
    if {said.relation, fact.relation} == {"parallel", "perpendicular"}:
        return said.key == fact.key and not said.negated and not fact.negated
    if said.relation != fact.relation:
        return False
    if said.negated != fact.negated:
        return _same_key(said, fact) and (said.relation != "value" or same_value(said.value, fact.value))
    if said.relation != "value" or said.negated or said.key != fact.key:
        return False
    a, b = number_of(said.value), number_of(fact.value)
    if a is not None and b is not None:
        return not same_value(said.value, fact.value) and not rounds_to(a, b)
    return differ_by_a_number(said.value, fact.value)


def _sprayed(said: Sequence[Statement], fact: Statement) -> bool:
    """Whether the text tries one expression (or shape) after the other instead of saying what it sees."""
    if fact.relation == "value":
        forms: list[Value] = []
        for one in said:
            if (
                one.relation == "value"
                and one.key == fact.key
                and not one.negated
                and number_of(one.value) is None
                and not any(same_value(one.value, other) for other in forms)
            ):
                forms.append(one.value)
                if len(forms) > _MOST_FORMS:  # at once: all of a long list compared with all would take a minute
                    return True
        return False
    if fact.relation == "kind":
        kinds = {one.key[1] for one in said if one.relation == "kind" and one.key[0] == fact.key[0]}
        return len(kinds) > _MOST_KINDS
    related = [one.key for one in said if one.relation == fact.relation and not one.negated]
    if fact.relation == "equal":
        return _too_many_equal([key for key in related if key[2] == fact.key[2]], fact)
    if fact.relation == "on":  # D is not on AB where A is on DB
        point, ends = fact.key
        others = {(ends[0], "".join(sorted((point, ends[1])))), (ends[-1], "".join(sorted((point, ends[0]))))}
        return len(ends) == 2 and any(key in others for key in related)
    most = _MOST_RELATED[fact.relation]
    if fact.relation in ("tangent", "diameter", "circle"):
        return len(related) > most
    if fact.relation == "midpoint" and any(key[1] == fact.key[1] and key[0] != fact.key[0] for key in related):
        return True
    names = fact.key[:1] if fact.relation in ("midpoint", "bisects") else fact.key[:2]
    return any(sum(name in key for key in related) > most for name in names)


def _too_many_equal(related: Sequence[tuple[str, ...]], fact: Statement) -> bool:
    """Whether more is said to equal the fact's two than can be, through others too (for angles: than anybody says)."""
    if fact.key[2] != "length":
        return any(sum(name in key[:2] for key in related) > _MOST_EQUAL_ANGLES for name in fact.key[:2])
    near: dict[str, set[str]] = {}
    for a, b, _ in related:
        near.setdefault(a, set()).add(b)
        near.setdefault(b, set()).add(a)
    equal, left = {fact.key[0]}, [fact.key[0]]
    while left:
        more = near.get(left.pop(), set()) - equal
        equal |= more
        left.extend(more)
    points = {point for segment in equal for point in re.findall(r"[A-Z]'?", segment)}
    return len(equal) > (_EQUAL_LENGTHS[len(points)] if len(points) < len(_EQUAL_LENGTHS) else 3 * len(points))
