"""What the scanner looks for: its patterns, the keys it knows, string literals.

Every pattern is possessive wherever it repeats, so none of them backtracks over more than a few characters.
"""

from __future__ import annotations

import json
import re

from perception_r1.answers.entries import Kind

# A quote closes a string only where JSON could go on after it, so `"5" screen"` and 'the man's hat' stay whole.
_CLOSES = r"(?:\s*+(?:[,:}\]\[{]|\Z)|\s++[\"'])"
_STRINGS = "|".join(rf"{q}(?:[^{q}\\\n]++|\\[^\n]?|{q}(?!{_CLOSES}))*+{q}?" for q in "\"'")
_FORM = r"<\|(?:object_ref_(?:start|end)|box_(?:start|end)|/?ref|/?det)\|>|</?(?:ref|box)>"
_COMMON = r"""
    (?P<open>[\[{][\[{\s]*+)
  | (?P<close>[\]}][\]},\s]*+)
  | (?P<paren>\()
"""
_COMMON += rf"  | (?P<special>{_FORM})"
INNER = re.compile(rf"(?P<string>{_STRINGS})(?P<key>\s*+:)?|(?P<bare>\b[A-Za-z_]\w*+(?=\s*+:))|{_COMMON}", re.X)
OUTER = re.compile(rf"(?P<yxyx>(?<![A-Za-z_])box_2d[\"']?\s*+:\s*+(?=\[))|{_COMMON}", re.X)
EMPTY_RUN = re.compile(r"(?:\[\s*+\][\s,]*+)++")
LEAF = re.compile(r"[^\[\]{}()\"'<]*+")
ANY_LEAF = re.compile(r"[^\[\]{}]*+")
SCALAR = re.compile(r"\s*+(-?[0-9]++(?:\.[0-9]++)?|true|false|null|None)\s*+(?=[,}\]])")
REF_BODY = re.compile(rf"([^<]*+(?:(?!{_FORM})<[^<]*+)*+)(<\|(?:object_ref_end|box_start|/ref|det)\|>|</ref>|<box>)?")
ELEMENT = re.compile(r"\(([^()\[\]{}<\n]*+)(\)?)")
NEXT_ELEMENT = re.compile(r"\s*+,\s*+(?=\()")
REST = re.compile(r"[\s,]*+\Z")
CUT_NUMBERS = re.compile(r"[\s0-9.,+\-eE]*+\Z")
PARTIAL = re.compile(r"<[|/]?[a-z_/]*+\|?\Z")
PLAIN = re.compile(
    r"^[ \t]*+((?:[-+]?[0-9.]++[ \t]*+,[ \t]*+){3}[-+]?[0-9.]++)(?:[ \t]++([^\n\d,]{1,60}?))?[ \t]*+$", re.MULTILINE
)
HAS_DIGIT = re.compile(r"[0-9]")

KINDS: dict[str, Kind] = {
    **dict.fromkeys(("bbox_2d", "bbox", "box", "boxes", "bboxes", "bboxes_2d", "bounding_box", "box_xyxy"), "box"),
    **dict.fromkeys(("point_2d", "point", "points", "points_2d"), "point"),
    **dict.fromkeys(("coordinates", "coordinate", "coords"), "any"),
    "box_2d": "yxyx",
}
LABEL_RANK = {
    **dict.fromkeys(("label", "labels"), 0),
    **dict.fromkeys(("category", "category_name", "class", "class_name"), 1),
    **dict.fromkeys(("name", "names", "name_en", "object", "object_name"), 2),
    **dict.fromkeys(("name_zh", "phrase", "description", "text_content"), 3),
}
KEY_AT_END = re.compile(r"[\"']\s*+([A-Za-z_]\w*+)\Z")
MAX_LABEL = 200


def decode_string(raw: str) -> str | None:
    """A JSON or Python string literal to text; lone surrogates become U+FFFD, so that it can always be written."""
    body = raw[1:-1]
    if "\\" in body:
        try:
            body = str(json.loads(f'"{body}"' if raw[0] == '"' else '"' + body.replace("\\'", "'") + '"'))
        except ValueError:
            body = body.replace("\\" + raw[0], raw[0])
        body = body.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return body.strip() or None
