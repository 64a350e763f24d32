"""The ``--key value`` arguments of a shell script, without running any of it."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Mapping
from typing import Any

_ASSIGNMENT = re.compile(r"^\s*(?:export\s+|local\s+|declare\s+)?([A-Za-z_]\w*)(\+?=)(.*)$")
_VARIABLE = re.compile(r"\$\{(\w+)(?::?-([^}]*))?\}|\$(\w+)")
_PRODUCT = re.compile(r"\$\(\(([\d\s*]+)\)\)")
_ENDS = ("|", ">", ">>", "2>&1", "&", "&&", ";", "tee")
_SPACE = "\x00"
"""Stands for a space that belongs to a path; shlex does not split there."""


def parse_arguments(script: str) -> dict[str, Any]:
    """Arguments of the commands in a script, dashes in their names as underscores; several values give a list.

    Variables that the script assigns are filled in, and products such as ``$((128 * 28 * 28))``. A path in a variable
    stays one word, as in the published scripts' ``<path to pr1>``. What else the shell would work out stays as it is
    written.

    Example:
        >>> parse_arguments("N=8\\ntorchrun --nproc_per_node=$N x.py --bf16 --reward_funcs a b")
        {'nproc_per_node': '8', 'bf16': True, 'reward_funcs': ['a', 'b']}
    """
    variables: dict[str, str] = {}
    found: dict[str, Any] = {}
    for line in re.sub(r"\\\r?\n", " ", script).splitlines():
        if line.lstrip().startswith("#"):
            continue
        assignment = _ASSIGNMENT.match(line)
        if assignment and "--" not in line.split("=", 1)[0]:
            name, operator, value = assignment.groups()
            text = " ".join(_words(_expand(value, variables)))
            variables[name] = variables.get(name, "") + text if operator == "+=" else text
            continue
        key = None
        for word in _words(_expand(line, variables)):
            if re.match(r"--[A-Za-z_]", word):
                name, equals, value = word[2:].partition("=")
                key = name.replace("-", "_")
                found[key] = value if equals else True
            elif word in _ENDS or (key is not None and word.endswith(".py")):
                key = None
            elif key is not None:
                before = found[key]
                found[key] = word if before is True else [*([before] if isinstance(before, str) else before), word]
    return found


def _expand(text: str, variables: Mapping[str, str]) -> str:
    def value(match: re.Match[str]) -> str:
        name, default, short = match.groups()
        known = variables.get(name or short)
        if known is None:
            return _expand(default, variables).strip("\"'") if default is not None else match.group()
        is_path = ("/" in known or "<" in known) and "--" not in known
        return known.replace(" ", _SPACE) if is_path else known

    text = _PRODUCT.sub(lambda match: _product(match.group(1)) or match.group(), text)
    return _VARIABLE.sub(value, text)


def _product(text: str) -> str:
    """``"128 * 28"`` as ``"3584"``; empty for what is no product."""
    factors = [factor.strip() for factor in text.split("*")]
    return str(math.prod(map(int, factors))) if all(factor.isdigit() for factor in factors) else ""


def _words(text: str) -> list[str]:
    try:
        words = shlex.split(text, comments=True)
    except ValueError:  # an unbalanced quote somewhere in the script
        words = text.split()
    return [word.replace(_SPACE, " ") for word in words]
