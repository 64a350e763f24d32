"""Visual facts as the authors of the visual perception reward store them: ``<info1>…</info1>\\n<info2>…</info2>``."""

from __future__ import annotations

import re
from collections.abc import Sequence

COLUMN = "visual_key_info"

_INFO = re.compile(r"<info(\d{1,4})>(.*?)</info\1>", re.DOTALL)


def read_infos(text: str) -> tuple[str, ...]:
    """The facts in the order of their numbers; blank ones are left out.

    Example:
        >>> read_infos("<info1>AB = 5</info1>\\n<info2>AB ∥ CD</info2>")
        ('AB = 5', 'AB ∥ CD')
    """
    found = {int(number): " ".join(fact.split()) for number, fact in _INFO.findall(text)}
    return tuple(found[number] for number in sorted(found) if found[number])


def write_infos(facts: Sequence[str]) -> str:
    """The column's text for some facts; tags inside a fact are taken out, so that it is read back as one.

    Example:
        >>> write_infos(["AB = 5", "AB ∥ CD"])
        '<info1>AB = 5</info1>\\n<info2>AB ∥ CD</info2>'
    """
    clean = [re.sub(r"</?info\d*>", "", fact) for fact in facts]
    return "\n".join(f"<info{number}>{fact}</info{number}>" for number, fact in enumerate(clean, start=1))
