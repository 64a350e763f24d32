"""The process that runs math-verify for `reasoning.equivalence`: a JSON question a line in, ``1`` or ``0`` a line out.

Each question may take `LIMIT_S` of processor time; then the system ends the process, wherever it hangs. Wall time
would call right answers wrong on a busy machine.
"""

from __future__ import annotations

import json
import signal
import sys
from typing import Any

LIMIT_S = 3.0


def main() -> None:
    """Answer until standard input closes."""
    import logging

    from math_verify import parse, verify

    logging.disable(logging.CRITICAL)  # it logs a traceback for each answer that is no mathematics
    print("ready", flush=True)
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_VIRTUAL, LIMIT_S)  # nobody handles the signal, so it ends the process
        right = _right(json.loads(line), parse, verify)
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        print(int(right), flush=True)


def _right(question: dict[str, str], parse: Any, verify: Any) -> bool:
    try:
        gold, given = (parse(question[side], parsing_timeout=None) for side in ("gold", "given"))
        return bool(verify(gold, given, timeout_seconds=None))
    except Exception:
        return False


if __name__ == "__main__":
    main()
