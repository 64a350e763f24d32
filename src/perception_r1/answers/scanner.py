"""The careful reading of an answer in any known form: one pass from left to right, linear, without recursion.

Answers mix forms, lose brackets and are cut anywhere, so the scanner does not parse a grammar. It looks for the next
token that matters (a bracket, a quoted string inside an object, a parenthesis, a special token) and keeps a small stack
of open JSON objects; a list that holds nothing but numbers is an entry. Every pattern is possessive and every character
is consumed a bounded number of times.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from perception_r1.answers import tokens
from perception_r1.answers.entries import Entry, Kind, Numbers, make_entry, read_numbers
from perception_r1.answers.formats import MAX_CHARS, MAX_ENTRIES


@dataclass(slots=True)
class _Object:
    """An open JSON object (the bottom of the stack stands for the text outside of any)."""

    start: int
    value: bool = False
    """It is the value of a key, so it does not count as an entry by itself."""
    named: bool = False
    """It is the value of a label key, such as ``"names": {"en": …}``: any string inside is a label."""
    kind: Kind | None = None
    rank: int | None = None
    awaiting: bool = False
    """A key was read and its value not yet."""
    key_at: int = 0
    arrays: int = 0
    """Lists opened inside this object and not closed."""
    seen: bool = False
    label: str | None = None
    label_rank: int = 99
    entries: list[Entry] = field(default_factory=list)
    inherited: list[Entry] = field(default_factory=list)
    """Unlabelled entries of the objects directly inside."""
    before: int = 0
    """How many entries the scan had found when it opened."""


class Scanner:
    """Scan ``text[start:end]``; afterwards ``entries`` are in order of position and ``open`` tells that it was cut."""

    def __init__(self, text: str, start: int, end: int, *, cut: bool = False) -> None:
        self.excess: str | None = None
        if end - start > MAX_CHARS:
            end, self.excess = start + MAX_CHARS, "too_long"
        self.text, self.start, self.end, self.cut = text, start, end, cut or self.excess is not None
        self.entries: list[Entry] = []
        self.open = False
        self.refs = 0
        self._stack = [_Object(start)]
        self._ref: str | None = None
        self._label: str | None = None
        self._label_from = start
        self._group: tuple[int, int] | None = None
        self._pos = start

    def run(self) -> Scanner:
        """Do the scan."""
        text, end, stack = self.text, self.end, self._stack
        while len(self.entries) <= MAX_ENTRIES:
            found = (tokens.INNER if len(stack) > 1 else tokens.OUTER).search(text, self._pos, end)
            if found is None:
                break
            self._pos = found.end()
            match found.lastgroup:
                case "open":
                    self._on_open(found)
                case "close":
                    self._on_close(found)
                case "string":
                    self._on_string(found)
                case "key":
                    self._on_key(found["string"], found.start())
                case "bare":
                    self._on_key(found["bare"], found.start())
                    self._pos = text.index(":", found.end()) + 1
                case "paren":
                    self._on_paren(found.start())
                case "yxyx":
                    stack[0].kind, stack[0].awaiting = "yxyx", True
                case _:
                    self._on_special(found)
        self._finish()
        return self

    # --- JSON ------------------------------------------------------------------------------------------------------

    def _add(self, entry: Entry) -> None:
        self.entries.append(entry)
        self._stack[-1].entries.append(entry)
        self._label_from = entry.end

    def _on_open(self, found: re.Match[str]) -> None:
        run = found.group().rstrip()
        top = self._stack[-1]
        if len(self._stack) == 1 and not top.awaiting and not top.arrays:
            top.kind = None
        lists = run.count("[")
        if run[-1] == "{":
            if len(self._stack) > 1 and run[0] == "{" and not top.awaiting and not top.arrays:
                # `{ {"bbox_2d": …`: a stray brace; or the brace that closes the entry before was forgotten.
                self._close_object(found.start())
                top = self._stack[-1]
            named = top.named or (top.rank is not None and (top.awaiting or top.arrays > 0))
            value = named or (len(self._stack) > 1 and not lists and not top.arrays)
            if top.awaiting and top.kind is not None and not lists:
                self._add(make_entry(Numbers((), 0, "non_numeric"), top.key_at, found.end(), None, top.kind))
            top.awaiting = False
            top.arrays += lists
            brace = found.start() + len(run) - 1
            self._stack.append(_Object(brace, value=value, named=named, before=len(self.entries)))
            return
        if run == "[" and (empties := tokens.EMPTY_RUN.match(self.text, found.start(), self.end)):
            if top.awaiting and top.kind is not None:
                self._add(make_entry(Numbers((), 0, None), top.key_at, empties.end(), None, top.kind))
            top.awaiting = False
            self._pos = empties.end()
            return
        self._on_list(found.start() + len(run) - 1, lists)

    def _on_list(self, start: int, lists: int) -> None:
        """The innermost ``[`` of a run, at ``start``: numbers up to its ``]`` are an entry."""
        text, end, top = self.text, self.end, self._stack[-1]
        leaf = tokens.LEAF.match(text, self._pos, end)
        assert leaf is not None
        stop = leaf.end()
        after = text[stop] if stop < end else ""
        keyed = top.kind if top.awaiting or top.arrays else None
        if keyed is not None and after in ('"', "'", "<"):  # strings or rubbish where numbers belong
            quoted = tokens.ANY_LEAF.match(text, self._pos, end)
            if quoted is not None and quoted.end() < end and text[quoted.end()] == "]":
                leaf, stop, after = quoted, quoted.end(), "]"
        content = leaf.group()
        if after == "]":
            top.arrays += lists - 1
            self._pos = stop + 1
            self._on_leaf(content, start, stop + 1, keyed)
            top.awaiting = False
            return
        digits = tokens.HAS_DIGIT.search(content) is not None
        if after == "":
            top.arrays += lists
            top.awaiting = False
            if keyed is not None or (digits and tokens.CUT_NUMBERS.match(content)):
                self._add(Entry(top.key_at if keyed else start, end, self._ref, "truncated"))
        elif digits and after not in "[{(" and (keyed is not None or self._group is not None):
            top.arrays += lists - 1
            top.awaiting = False
            self._add(Entry(start, stop, self._ref, "unclosed"))
        else:
            top.arrays += lists
            if keyed is None:
                top.awaiting = False
        self._pos = stop

    def _on_leaf(self, content: str, start: int, end: int, keyed: Kind | None) -> None:
        numbers = read_numbers(content)
        if keyed is not None:
            self._add(make_entry(numbers, start, end, None, keyed))
        elif len(self._stack) == 1 or not self._stack[-1].seen:
            if self._group is None and not _looks_like_coordinates(numbers):
                return
            self._add(make_entry(numbers, start, end, self._ref))

    def _on_close(self, found: re.Match[str]) -> None:
        run, stack = found.group(), self._stack
        for i, char in enumerate(run):
            if len(stack) == 1:
                stack[0].arrays = max(0, stack[0].arrays - run.count("]", i))
                stack[0].awaiting = False
                return
            if char == "}":
                self._close_object(found.start() + i + 1)
            elif char == "]":
                if stack[-1].arrays:
                    stack[-1].arrays -= 1
                elif stack[-2].arrays:  # the list ends, so the object did too
                    self._close_object(found.start() + i)
                    stack[-1].arrays -= 1

    def _close_object(self, end: int, issue: str = "missing") -> None:
        """Pop the innermost object: its label goes to its entries, its extent becomes the span of a lone entry."""
        top = self._stack.pop()
        parent = self._stack[-1]
        if top.awaiting and top.kind is not None:
            entry = Entry(top.key_at, end, None, "truncated" if issue == "truncated" else "numbers", top.kind)
            self.entries.append(entry)
            top.entries.append(entry)
        own = top.entries
        if len(own) == 2 and {own[0].kind, own[1].kind} == {"box", "point"} and not (own[0].issue or own[1].issue):
            own[0].box, own[0].point = own[0].box or own[1].box, own[0].point or own[1].point
            own.pop().merged = True
        if top.label is not None:
            for entry in (*own, *top.inherited):
                if entry.label is None:
                    entry.label = top.label
        if len(own) == 1:
            own[0].start, own[0].end = top.start, end
        elif not own and len(self.entries) == top.before and top.label is not None and not top.value:
            self._add(Entry(top.start, end, top.label, issue))
        if top.named and top.label is not None and top.label_rank < parent.label_rank:
            parent.label, parent.label_rank = top.label, parent.rank if parent.rank is not None else 4
        parent.inherited.extend(entry for entry in own if entry.label is None)
        self._label_from = end

    def _on_key(self, raw: str, at: int) -> None:
        quote = raw[0] if raw[0] in "\"'" else ""
        name = raw[1:-1] if quote else raw
        tail = tokens.KEY_AT_END.search(name, max(0, len(name) - 24)) if quote else None
        if tail is not None and (tail[1] in tokens.KINDS or tail[1] in tokens.LABEL_RANK):
            # `"label": "cat}, {"bbox_2d":`: a quote was forgotten and the string ran into the next key.
            if "{" in name and len(self._stack) > 1:
                self._close_object(at)
                self._stack.append(_Object(at, before=len(self.entries)))
            name = tail[1]
        top = self._stack[-1]
        if top.awaiting and top.kind is not None:
            self._add(Entry(top.key_at, at, None, "numbers", top.kind))
        name = name.strip().lower()
        top.kind, top.rank = tokens.KINDS.get(name), tokens.LABEL_RANK.get(name)
        if top.named:
            top.kind, top.rank = None, 0 if name in ("en", "label", "name") else 1
        top.awaiting, top.seen, top.arrays, top.key_at = True, True, 0, at
        if top.kind is None and (scalar := tokens.SCALAR.match(self.text, self._pos, self.end)):
            top.awaiting = False
            if scalar[1][0] in "-0123456789":
                self._set_label(top, scalar[1])

    def _on_string(self, found: re.Match[str]) -> None:
        raw, top = found["string"], self._stack[-1]
        if len(raw) < 2 or raw[-1] != raw[0]:  # never closed: it ran to the end of the line or of the text
            self.open = self.open or found.end() == self.end
        elif top.awaiting and top.kind is not None:
            self._add(Entry(top.key_at, found.end(), None, "yxyx" if top.kind == "yxyx" else "non_numeric", top.kind))
        elif top.awaiting or top.arrays:
            self._set_label(top, tokens.decode_string(raw))
        top.awaiting = False

    @staticmethod
    def _set_label(top: _Object, label: str | None) -> None:
        if top.rank is not None and top.rank < top.label_rank and label is not None:
            top.label, top.label_rank = label, top.rank

    # --- (x1,y1),(x2,y2) -------------------------------------------------------------------------------------------

    def _on_paren(self, start: int) -> None:
        """A chain of ``(…)`` joined by commas: two pairs of numbers make a box, a lone pair a point."""
        text, end, top = self.text, self.end, self._stack[-1]
        keyed = top.kind if top.awaiting or top.arrays else None
        if len(self._stack) > 1 and top.seen and keyed is None:
            return
        label = self._ref if len(self._stack) > 1 or self._ref is not None else self._phrase(start)
        before = len(self.entries)
        lone: tuple[Numbers, int, int] | None = None
        pos, chained = start, False
        while True:
            element = tokens.ELEMENT.match(text, pos, end)
            assert element is not None
            if len(self.entries) > MAX_ENTRIES:
                return
            self._pos = element.end()
            if not element[2]:
                break
            numbers, at, pos = read_numbers(element[1]), pos, element.end()
            if lone is not None:
                self._add_pair(lone[0], numbers, lone[1], pos, label, keyed)
                lone = None
            elif keyed == "point" or len(numbers.values) == 4:
                self._add(make_entry(numbers, at, pos, label, keyed or "any"))
            else:
                lone = (numbers, at, pos)
            joint = tokens.NEXT_ELEMENT.match(text, pos, end)
            if joint is None:
                break
            pos, chained = joint.end(), True
        top.awaiting = False
        grouped = self._group is not None
        if not element[2] and self._pos == end and tokens.CUT_NUMBERS.match(text, pos + 1, end):
            if chained or grouped or self.cut or element[1].strip():
                self._add(Entry(lone[1] if lone else pos, end, label, "truncated"))
                self.open = True
        elif lone is not None:
            numbers, at, pos = lone
            rest = tokens.REST.match(text, pos, end)
            if numbers.values and rest and (grouped or self.cut or "," in rest.group()):
                self._add(Entry(at, end, label, "truncated"))  # half a box, or a point: nobody can tell
                self.open = True
            elif chained and numbers.values:
                self._add(Entry(at, pos, label, numbers.issue or "numbers"))
            elif keyed is not None or grouped or _looks_like_coordinates(numbers):
                self._add(make_entry(numbers, at, pos, label, keyed or "any"))
        if len(self.entries) > before:
            self._label = label

    def _add_pair(
        self, first: Numbers, second: Numbers, start: int, end: int, label: str | None, keyed: Kind | None
    ) -> None:
        """``(…),(…)``: a box of two corners; two remarks in brackets without any number are prose."""
        if first.values or second.values or self._group is not None or keyed is not None:
            issue = first.issue or second.issue or (None if first.items == second.items == 2 else "numbers")
            both = Numbers(first.values + second.values, first.items + second.items, issue)
            self._add(make_entry(both, start, end, label, keyed or "box"))

    def _phrase(self, start: int) -> str | None:
        """The words before a chain without special tokens, or the label of the chain before when there are none."""
        piece = self.text[max(self._label_from, start - tokens.MAX_LABEL) : start].rpartition("\n")[2].strip(" \t\r,;:")
        return piece or self._label

    # --- special tokens --------------------------------------------------------------------------------------------

    def _on_special(self, found: re.Match[str]) -> None:
        token = found.group().strip("<|>")
        if token in ("object_ref_start", "ref"):
            self.refs += 1
            body = tokens.REF_BODY.match(self.text, found.end(), self.end)
            if body is not None and body[2]:
                self._ref, self._label = body[1].strip() or None, None
                self._pos = body.start(2)
        elif token in ("box_start", "box", "det"):
            self._close_group(found.start())
            self._group = (found.start(), len(self.entries))
        elif token in ("box_end", "/box", "/det"):
            self._close_group(found.end())
        self._label_from = found.end()

    def _close_group(self, end: int, issue: str = "numbers") -> None:
        if self._group is not None and len(self.entries) == self._group[1]:
            self._add(Entry(self._group[0], end, self._ref, issue))
        self._group = None

    # --- the end ---------------------------------------------------------------------------------------------------

    def _finish(self) -> None:
        if self._group is not None:
            self.open = True
            self._close_group(self.end, "truncated")
        if (
            len(self._stack) > 1
            or self._stack[0].arrays
            or tokens.PARTIAL.search(self.text, max(self.start, self.end - 24), self.end)
        ):
            self.open = True
        while len(self._stack) > 1:
            self._close_object(self.end, "truncated")
        if not self.entries:
            self._plain_lines()
        self.entries = sorted((entry for entry in self.entries if not entry.merged), key=lambda entry: entry.start)
        if len(self.entries) > MAX_ENTRIES:
            del self.entries[MAX_ENTRIES:]
            self.excess = "too_many"

    def _plain_lines(self) -> None:
        """Lines of their own that read ``x1,y1,x2,y2`` or ``x1,y1,x2,y2 label``; numbers inside prose never count."""
        lines = self.text[self.start : self.end]
        for found in tokens.PLAIN.finditer(lines):
            start, end = self.start + found.start(1), self.start + found.end()
            entry = make_entry(read_numbers(found[1]), start, end, found[2], "box")
            if self.cut and end == self.end:
                entry.label = None
                if not found[2]:
                    entry.box, entry.issue = None, "truncated"
            self.entries.append(entry)


def _looks_like_coordinates(numbers: Numbers) -> bool:
    """Whether a list without a key, in any place, is meant as coordinates rather than as prose in brackets."""
    if numbers.items < 2:
        return False
    if numbers.issue == "non_numeric":
        return numbers.items >= 3 and 2 * len(numbers.values) >= numbers.items
    return True
