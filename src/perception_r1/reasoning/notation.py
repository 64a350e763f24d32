"""Words, LaTeX and symbols of plane geometry, brought into one notation before anything is read from them.

Every pattern runs in time linear in the text, whatever it holds.
"""

from __future__ import annotations

import re
from functools import lru_cache

MAX_CHARS = 40_000
"""Of a longer text the rest is not read."""

_GROUP = r"\\(?:text|mathrm|mathbf|mathit|operatorname|overline|overleftrightarrow|overrightarrow|bar|rm|bf)\s*"
_CLEAN: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, flags), new)
    for pattern, new, flags in (
        (r"\\(?:widehat|overset\s*\{\\frown\}|overparen|wideparen)\s*\{([^{}]*)\}", r" arc \1", 0),
        (rf"{_GROUP}\{{([^{{}}]*)\}}", r"\1", 0),
        (r"\\[dt]?frac\s*\{([^{}]*)\}\s*\{([^{}]*)\}", r"((\1)/(\2))", 0),
        (r"\\sqrt\s*\{([^{}]*)\}", r"sqrt(\1)", 0),
        (r"√\s*\(", "sqrt(", 0),
        (r"√\s*(\d+)", r"sqrt(\1)", 0),
        (r"\^\s*\{?\s*(?:\\circ|°|∘)\s*\}?|°|\bdegrees?\b", "° ", re.I),
        (r"\\(?:measured)?angle\b|∠|\bangles?\b(?=\s*[\\$*]*\s*(?:[A-Z]{1,3}\b|\d))", " ∠", 0),
        (r"\\(?:vartriangle|triangle)\b|△", " triangle ", 0),
        (r"\\odot\b|⊙", " circle ", 0),
        (r"\\nparallel\b|∦|\b(?:is|are)\s+not\s+parallel\s+to\b|\bisn't\s+parallel\s+to\b", " ∦ ", re.I),
        (r"\\parallel\b|∥|\|\||\bis\s+parallel\s+to\b|\bparallel\s+to\b", " ∥ ", re.I),
        (r"\b(?:is|are)\s+not\s+perpendicular\s+to\b|\bisn't\s+perpendicular\s+to\b", " ⟂̸ ", re.I),
        (r"\\perp\b|⊥|⟂(?!̸)|\bis\s+perpendicular\s+to\b|\bperpendicular\s+to\b", " ⊥ ", re.I),
        (r"\\(?:neq?|not\s*=)|≠|!=|\b(?:is|are)\s+not\s+(?:equal\s+to|congruent\s+to|(?=[-\d(]))", " ≠ ", re.I),
        (r"\bdoes\s+not\s+(?:equal|measure)\b|\b(?:isn't|not)\s+(?:equal\s+to)?\s*(?=\d)", " ≠ ", re.I),
        (r"\\(?:approx|cong|simeq|equiv)\b|≈|≅|≡", "=", 0),
        (r"\b(?:is|are)\s+(?:equal|congruent)\s+to\b|\bequals?\b|\bmeasures\b|\bis\s+congruent\s+to\b", "=", re.I),
        (r"\b(?:is|are)\s+(?:given|labell?ed|marked|shown|denoted)(?:\s+(?:as|by|with|to\s+be))?\b", "=", re.I),
        (r"\b(?:has|have|with)\s+(?:a\s+)?(?:length|measure)(?:\s+of)?\b", "=", re.I),
        (r"\\(?:cdot|times)\b|×|·", "*", 0),
        (r"\\pi\b|π", "pi", 0),
        (r"²", "^2", 0),
        (r"[−–]", "-", 0),
        (r"\\(?:left|right|,|;|!|:|quad|qquad|displaystyle|big|Big)\b|\\[,;!: ]", " ", 0),
        (r"\\[()\[\]]|\$|\*\*|`|[{}]|\\\\", " ", 0),
        (r"\bthe\s+", "", re.I),
        (r"\b(?:measures?|lengths?|sizes?)\s+of\b", "", re.I),
        (r"\bm\s*∠", "∠", 0),
        (r"\b(?:line\s+segments?|segments?|sides?|legs?|hypotenuse|chords?|lines?)\s+(?=[A-Z]'?[A-Z]'?\b)", "", re.I),
        (r"∠\s*\(?\s*([A-Z])\s*,?\s*([A-Z])\s*,?\s*([A-Z])\b(?:\s*\))?", r"∠\1\2\3", 0),
        (r"(?<=\d)\s+(?=[b-hj-z]\b(?!\s*=))", "", 0),
        (r"[ \t]+", " ", 0),
    )
)


@lru_cache(maxsize=2048)
def normalise(text: str) -> str:
    """Words, LaTeX and symbols of geometry in one notation."""
    text = text[:MAX_CHARS]
    for pattern, new in _CLEAN:
        text = pattern.sub(new, text)
    return text.strip()
