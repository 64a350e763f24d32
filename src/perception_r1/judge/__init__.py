"""Judges of the visual perception reward: who says which visual facts a response states.

A judge is anything with a ``name`` and ``async judge(cases) -> verdicts``, one a case, in order, that never raises for
what a case or a server does: a case that could not be judged comes back with its ``failure``. ``LexicalJudge`` needs no
model; ``ChatJudge`` asks an OpenAI-compatible server.
"""

from __future__ import annotations

from perception_r1.judge.base import Case, Judge, Verdicts, gather_evidence
from perception_r1.judge.chat import ChatJudge
from perception_r1.judge.lexical import LexicalJudge
from perception_r1.judge.make import make_judge, open_judge

__all__ = ["Case", "ChatJudge", "Judge", "LexicalJudge", "Verdicts", "gather_evidence", "make_judge", "open_judge"]
