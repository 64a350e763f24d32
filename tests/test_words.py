"""Phrases that hide meaning do not come back into docstrings, help texts, errors and pages."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PHRASES = (
    r"\b(?:is|are) none of\b",
    r"\bthat (?:is|are) none\b",
    r"(?<!there )\bis no [a-z]+ of\b",
    r"(?<!there )\bis no (?:number|file|task|size|answer|box|model|row|JSON|YAML|image|category|address)\b",
    r"\b[Ww]hat \S+(?: \S+){0,4} makes? of\b",
)
FILES = [
    *sorted((ROOT / "src").rglob("*.py")),
    *sorted((ROOT / "docs").glob("*.md")),
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "recipes/README.md")),
]


@pytest.mark.parametrize("phrase", PHRASES)
def test_phrases_that_must_not_come_back(phrase: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{text.count(chr(10), 0, match.start()) + 1}: {match.group()}"
        for path in FILES
        for text in [path.read_text(encoding="utf-8")]
        for match in re.finditer(phrase, text)
    ]
    assert found == []


def test_the_phrases_are_seen() -> None:
    sentence = "what a judge makes of it is none of ours, and that is none; it is no image of this file"
    assert sum(re.search(phrase, sentence) is not None for phrase in PHRASES) == len(PHRASES)
