"""Is a final answer right? Plain answers are compared here, the rest by math-verify in a process of its own.

math-verify hands the text to a computer algebra system: ``9^{9^{9^9}}`` would stop a training for ever, and its own
time limit needs the main thread, which a trainer's reward function does not run in. So it runs in a worker that is
killed when it takes too long; such an answer is wrong.
"""

from __future__ import annotations

import atexit
import importlib.util
import json
import re
import selectors
import subprocess
import sys
import threading
from functools import lru_cache

from perception_r1.reasoning.polynomials import number_of, read_value

PATIENCE_S = 60.0
"""How long to wait for the worker, which ends itself after `math_worker.LIMIT_S` of processor time."""

_MAX_ANSWER = 400
_NUMBER = re.compile(r"[-+]?\d{1,12}(?:\.\d{1,9})?")
_TOWER = re.compile(r"\^\s*(?:\{[^{}]*\^|\{?\s*[-+]?\d{4,})|\d{4,}\s*!|!\s*!")
"""Numbers that nobody can write out: refused at once, since each would cost the worker's whole time limit."""
_DRESS = re.compile(r"\\(?:left|right|,|;|!|displaystyle)\b|\\[,;! ]|[\s$]")

_SIGNS: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"\^?\{?(?:\\degree\b|[°º])\}?"), r"^\\circ "),
    (re.compile(r"√\s*(?:\{([^{}]*)\}|\(([^()]*)\)|(\d+|[A-Za-z]))"), r"\\sqrt{\1\2\3}"),
    (re.compile(r"\\[,;]"), " "),
    (re.compile(r"\A\*\*([^*]*)\*\*\Z"), r"\1"),
)
"""Signs that people write and math-verify does not read, in LaTeX."""


def same_answer(given: str, gold: str) -> bool:
    """Whether ``given`` (the content of a box, or a bare answer) is the gold answer.

    Numbers are compared to 1e-6; everything else by math-verify, both sides boxed, so that a bare ``2\\sqrt{3}`` is
    not read as 2. An answer of more than 400 characters is wrong.

    Raises:
        ModuleNotFoundError: math-verify is needed and not installed.

    Example:
        >>> same_answer("12.0", "12"), same_answer("12^\\\\circ", "13")
        (True, False)
    """
    given, gold = given.strip(), gold.strip()
    if not given or len(given) > _MAX_ANSWER:
        return False
    a, b = _plain(given), _plain(gold)
    if a and a == b:
        return True
    if _NUMBER.fullmatch(a) and _NUMBER.fullmatch(b):
        x, y = number_of(read_value(a.lstrip("+"))), number_of(read_value(b.lstrip("+")))
        return x is not None and y is not None and abs(x - y) <= 1e-6 * max(1.0, abs(y))
    return verified(f"\\boxed{{{_in_latex(given)}}}", f"\\boxed{{{_in_latex(unboxed(gold))}}}")


@lru_cache(maxsize=8192)
def verified(given: str, gold: str) -> bool:
    """``verify(parse(gold), parse(given))`` of math-verify, False where it fails or takes too long."""
    if importlib.util.find_spec("math_verify") is None:
        raise ModuleNotFoundError("No module named 'math_verify'", name="math_verify")
    return not _TOWER.search(given) and _WORKER.ask(given, gold)


def unboxed(text: str) -> str:
    """The content of the last ``\\boxed{…}``, or the text itself where there is none.

    Example:
        >>> unboxed("so \\\\boxed{\\\\frac{1}{2}}.")
        '\\\\frac{1}{2}'
    """
    found = boxes(text)
    return found[-1] if found else text


def boxes(text: str) -> list[str]:
    """Contents of every closed ``\\boxed{…}``, braces balanced, in order.

    Example:
        >>> boxes("\\\\boxed{1} and \\\\boxed{\\\\sqrt{2}}")
        ['1', '\\\\sqrt{2}']
    """
    found: list[str] = []
    at = 0
    while (start := text.find("\\boxed{", at)) >= 0:
        at = start + len("\\boxed{")
        depth, end = 1, at
        while end < len(text) and depth:
            depth += (text[end] == "{") - (text[end] == "}")
            end += 1
        if depth:
            return found
        found.append(text[at : end - 1].strip())
        at = end
    return found


def _in_latex(text: str) -> str:
    for pattern, new in _SIGNS:
        text = pattern.sub(new, text)
    return text


def _plain(text: str) -> str:
    return _DRESS.sub("", text).rstrip(".")


class _Worker:
    """One process that runs math-verify, started when first needed; questions go one at a time."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.process: subprocess.Popen[bytes] | None = None

    def ask(self, given: str, gold: str) -> bool:
        question = json.dumps({"given": given, "gold": gold}).encode() + b"\n"
        with self.lock:
            for _ in range(2):  # again once: the worker may have been ended from outside since the last question
                process = self._running()
                assert process.stdin is not None
                try:
                    process.stdin.write(question)
                except OSError:
                    self.stop()
                    continue
                answer = self._answer(process)
                if not answer:  # too slow, or dead of this very question
                    self.stop()
                return answer.strip() == b"1"
            return False

    @staticmethod
    def _answer(process: subprocess.Popen[bytes]) -> bytes:
        """A line, or nothing where the worker takes too long or is gone."""
        assert process.stdout is not None
        with selectors.DefaultSelector() as ready:
            ready.register(process.stdout, selectors.EVENT_READ)
            return process.stdout.readline() if ready.select(PATIENCE_S) else b""

    def _running(self) -> subprocess.Popen[bytes]:
        if self.process is None or self.process.poll() is not None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "perception_r1.reasoning.math_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                bufsize=0,
            )
            self._wait_until_ready(self.process)
        return self.process

    @staticmethod
    def _wait_until_ready(process: subprocess.Popen[bytes]) -> None:
        """Importing the algebra system takes longer than an answer may: it says when it is ready."""
        assert process.stdout is not None
        process.stdout.readline()

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe is not None:
                    pipe.close()
            self.process = None


_WORKER = _Worker()
atexit.register(_WORKER.stop)
