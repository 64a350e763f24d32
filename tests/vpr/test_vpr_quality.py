"""Judge quality by hand-made tables, the battery, and the lexical judge on generated labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from typer.testing import CliRunner

from perception_r1.cli import app
from perception_r1.errors import DataError
from perception_r1.judge import Case, LexicalJudge, Verdicts
from perception_r1.vpr.gold import Labelled, battery, cohen_kappa, generated_gold, measure, read_gold


class Scripted:
    """A judge that says what it is told; stands for a user's own."""

    name = "scripted"

    def __init__(self, verdicts: Sequence[Verdicts]) -> None:
        self.verdicts = verdicts

    async def judge(self, cases: Sequence[Case]) -> list[Verdicts]:
        return list(self.verdicts[: len(cases)])

    def stats(self) -> dict[str, float]:
        return {}

    async def close(self) -> None:
        return None


def test_figures_by_hand() -> None:
    facts = ("a", "b", "c", "d", "e", "f", "g", "h", "i", "j")
    labelled = [Labelled("1", Case(facts, "x"), (True,) * 6 + (False,) * 4)] * 2
    # of the six stated four are found; of the four others one is granted, one contradicted, one has no verdict
    verdicts = Verdicts(
        (1.0,) * 4 + (0.0, 0.4) + (1.0, 1.0, None, 0.0), (False,) * 7 + (True, False, False), ("",) * 10
    )
    found = measure(Scripted([verdicts, Verdicts(failure="down")]), labelled)
    assert (found.n_facts, found.missing, found.failed) == (9, 1, 1)
    assert found.agreement == pytest.approx(6 / 9)
    assert found.precision == pytest.approx(4 / 5)
    assert found.recall == pytest.approx(4 / 6)
    # chance: stated 6/9·5/9, other 3/9·4/9
    chance = (6 * 5 + 3 * 4) / 81
    assert found.kappa == pytest.approx((6 / 9 - chance) / (1 - chance))
    assert {row["fact"] for row in found.disagreements} == {"e", "f", "g"}


def test_kappa() -> None:
    assert cohen_kappa([[20, 5], [10, 15]]) == pytest.approx(0.4)
    assert cohen_kappa([[5, 0], [0, 0]]) is None
    assert cohen_kappa([[0, 0], [0, 0]]) is None


def test_lexical_judge_on_generated_labels() -> None:
    found = measure(LexicalJudge(), generated_gold(60, seed=5))
    assert found.n_facts > 150
    assert found.agreement == 1.0 and found.kappa == 1.0


def test_nothing_fools_the_lexical_judge_and_honesty_pays() -> None:
    found = battery(LexicalJudge(), n=6, seed=3)
    assert found["paid"] == 0.0
    assert found["honest"] == {"judge": 1.0, "reward": 1.0}
    assert len(found["attacks"]) == 11


def test_a_judge_that_says_yes_to_everything_is_still_held_back() -> None:
    """The scorer takes back what the response contradicts, whatever the judge says."""

    class Yes(Scripted):
        async def judge(self, cases: Sequence[Case]) -> list[Verdicts]:
            return [Verdicts((1.0,) * len(case.facts), (False,) * len(case.facts)) for case in cases]

    found = battery(Yes([]), n=6, seed=3)
    assert found["attacks"]["all values"]["judge"] == 1.0
    assert found["attacks"]["all values"]["reward"] < 0.5
    assert found["attacks"]["fact and its opposite"]["reward"] == 0.0
    assert found["attacks"]["asks the judge"]["reward"] == 1.0


def test_command_and_files(tmp_path: Path) -> None:
    path = tmp_path / "gold.jsonl"
    path.write_text(json.dumps({"facts": ["AB = 5", "AC = 7"], "response": "AB is 5", "verdicts": [1, 0]}) + "\n")
    result = CliRunner().invoke(app, ["vpr", "judge", "--gold", str(path), "--json"])
    assert result.exit_code == 0, result.stderr
    assert json.loads(result.stdout)["gold"]["agreement"] == 1.0
    result = CliRunner().invoke(app, ["vpr", "judge", "--generated", "5", "--battery", "2"])
    assert result.exit_code == 0, result.stderr
    assert "kappa 1.000" in result.stdout and "asks the judge" in result.stdout
    path.write_text(json.dumps({"facts": ["AB = 5"], "response": "AB is 5", "verdicts": [1, 0]}) + "\n")
    with pytest.raises(DataError, match=r"gold\.jsonl:1: field 'verdicts': expected 1 of true or false"):
        read_gold(path)
    assert CliRunner().invoke(app, ["vpr", "judge"]).exit_code == 2
