"""distill → filter → annotate → judge on the command line, against a local server: resume, failures, cost, parquet."""

from __future__ import annotations

import base64
import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from typer.testing import CliRunner

from chat_double import ChatDouble, completion, question
from perception_r1.cli import app
from perception_r1.data.geometry import make_diagrams
from perception_r1.data.jsonl import read_jsonl, write_jsonl
from perception_r1.evaluate.results import write_lines
from perception_r1.openai_server import PLAIN_DECODING
from perception_r1.vpr.annotate import read_facts, tidy

pytest.importorskip("aiohttp")
pytest.importorskip("math_verify")


def pr1(*words: object) -> Any:
    return CliRunner().invoke(app, ["vpr", *map(str, words)])


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture
def problems(tmp_path: Path) -> Path:
    samples = make_diagrams(4, seed=1, kinds=["segments"], size=64, names="abc", out_dir=tmp_path / "data")
    write_jsonl(tmp_path / "data" / "rows.jsonl", samples)
    return tmp_path / "data" / "rows.jsonl"


def solver(answers: dict[str, str]) -> Any:
    """A vision model that knows the answers by the pictures, and is wrong on the second of each two samples."""

    def behave(body: dict[str, Any], n: int) -> Any:
        image = next(p for p in body["messages"][-1]["content"] if p["type"] == "image_url")["image_url"]["url"]
        answer = answers[image]
        if body["seed"] % 2:
            answer = "999"
        return f"<think>\nAB = 1. It is {answer}.\n</think>\n<answer>\n\\boxed{{{answer}}}\n</answer>"

    return behave


def pictures(problems: Path) -> dict[str, str]:
    found = {}
    for sample in read_jsonl(problems):
        buffer = io.BytesIO()
        Image.open(str(sample.image)).convert("RGB").save(buffer, "PNG", compress_level=1)
        address = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
        found[address] = sample.target.answer  # type: ignore[union-attr]
    return found


def test_distill_filter_annotate_and_back(problems: Path, tmp_path: Path) -> None:
    chains, right, facts = tmp_path / "chains.jsonl", tmp_path / "right.jsonl", tmp_path / "facts.jsonl"
    with ChatDouble(solver(pictures(problems))) as double:
        result = pr1(
            "distill", problems, "-o", chains, "--url", double.url, "-m", "vlm", "--n", 2, "--price", "1,2", "--json"
        )
    assert result.exit_code == 0, result.stderr
    report = json.loads(result.stdout)
    assert (report["n_in"], report["n_done"], report["n_failed"]) == (8, 8, 0)
    assert report["prompt_tokens"] == 8 * 7
    assert report["cost"] == pytest.approx((56 + 2 * report["completion_tokens"]) / 1e6, abs=1e-4)
    assert {row["id"].rpartition("#")[2] for row in rows_of(chains)} == {"0", "1"}

    result = pr1("filter", chains, "-o", right)
    assert result.exit_code == 0
    assert "4 of 8 done" in result.stdout and "wrong 4" in result.stdout and "problems solved 4" in result.stdout
    assert all(row["sample"] == 0 for row in rows_of(right))

    def facts_of(body: dict[str, Any], n: int) -> str:
        return 'Here: {"facts": ["AB = 1", "the length of AB is 1", "Find the length of AC.", "AB ∥ DE"]}'

    with ChatDouble(facts_of) as double:
        parquet = tmp_path / "facts.parquet"
        result = pr1("annotate", right, "-o", facts, "--url", double.url, "-m", "llm", "--parquet", parquet)
    assert result.exit_code == 0, result.stderr
    assert all(row["visual_annotations"] == ["AB = 1", "AB ∥ DE"] for row in rows_of(facts))
    assert "<info1>" not in facts.read_text()
    # rows of ours and the authors' parquet are both read back
    from perception_r1.data.sources import load_source

    ours = load_source({"source": "jsonl", "path": str(facts)}, task="geometry")
    theirs = load_source(
        {"source": "geometry3k", "path": str(parquet), "options": {"cache": str(tmp_path / "c")}}, task="geometry"
    )
    assert [s.target for s in ours] == [s.target for s in theirs]
    assert [s.question for s in ours] == [s.question for s in theirs]
    assert ours[0].response.startswith("<think>")


def test_a_killed_distill_goes_on_and_failures_are_kept_apart(problems: Path, tmp_path: Path) -> None:
    chains = tmp_path / "chains.jsonl"
    answers = pictures(problems)
    broken = list(answers)[2]

    def behave(body: dict[str, Any], n: int) -> Any:
        image = next(p for p in body["messages"][-1]["content"] if p["type"] == "image_url")["image_url"]["url"]
        return 400 if image == broken else solver(answers)(body, n)

    served = [{"id": "vlm", "root": "org/vlm", "created": 1}]
    with ChatDouble(behave, served) as double:
        words = ("distill", problems, "-o", chains, "--url", double.url, "-m", "vlm")
        result = pr1(*words)
        assert result.exit_code == 0
        assert "3 of 4 done, 1 failed" in result.stdout
        (failed,) = rows_of(tmp_path / "chains.jsonl.failed.jsonl")
        assert "400" in failed["reason"]
        with chains.open("a") as stream:
            stream.write('{"id": "half')  # what a kill leaves
        assert pr1(*words).exit_code == 2  # there already, and no --resume
        again = pr1(*words, "--resume")
        assert again.exit_code == 0 and "3 before" in again.stdout
        assert len(rows_of(chains)) == 3
        changed = pr1(*words[:-1], "other", "--resume")
        assert changed.exit_code == 2 and "other settings (model" in changed.stderr
    # the same model, on a server that was started elsewhere
    with ChatDouble(solver(answers), [{**served[0], "created": 2}]) as double:
        result = pr1("distill", problems, "-o", chains, "--url", double.url, "-m", "vlm", "--resume")
        assert result.exit_code == 0 and len(rows_of(chains)) == 4
        assert len(double.bodies) == 1
    assert not (tmp_path / "chains.jsonl.failed.jsonl").exists()


def test_a_price_that_is_none_is_said_before_anything_is_paid_for(problems: Path, tmp_path: Path) -> None:
    with ChatDouble(lambda body, n: "x") as double:
        words = ("distill", problems, "-o", tmp_path / "x.jsonl", "--url", double.url, "-m", "vlm", "--price", "cheap")
        result = pr1(*words)
    assert result.exit_code == 2 and "expected two numbers" in result.stderr
    assert not double.bodies


def test_a_wrong_key_stops_it_with_one_line(problems: Path, tmp_path: Path) -> None:
    with ChatDouble(lambda body, n: 401) as double:
        result = pr1("distill", problems, "-o", tmp_path / "x.jsonl", "--url", double.url, "-m", "vlm", "-q")
    assert result.exit_code == 2
    assert "401" in result.stderr and len(result.stderr.strip().splitlines()) == 1


def test_judge_scores_saved_responses(problems: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "responses.jsonl", tmp_path / "judged.jsonl"
    rows = rows_of(problems)
    for index, row in enumerate(rows):
        said = ". ".join(row["visual_annotations"][: index % 2 + 1])
        row["response"] = f"<think>\n{said}.\n</think>\n<answer>\n\\boxed{{{row['answer']}}}\n</answer>"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = pr1("judge", data, "-o", out)
    assert result.exit_code == 0, result.stderr
    found = rows_of(out)
    assert [row["reward"] for row in found] == pytest.approx([1.35, 1.7, 1.35, 1.7])
    assert [fact["score"] for fact in found[0]["facts"]] == [1.0, 0.0]
    assert "mean reward 1.525" in result.stdout

    def verdicts(body: dict[str, Any], n: int) -> Any:
        if "AB = 1" in question(body):
            return 500
        return completion(
            json.dumps(
                {
                    "verdicts": [
                        {"id": 1, "verdict": "stated", "quote": "AB"},
                        {"id": 2, "verdict": "absent", "quote": ""},
                    ]
                }
            )
        )

    none = pr1("judge", data, "-o", tmp_path / "other.jsonl", "--url", "http://127.0.0.1:9/v1", "-m", "m")
    assert none.exit_code == 2 and "no response could be judged" in none.stderr
    with ChatDouble(verdicts) as double:
        result = pr1("judge", data, "-o", tmp_path / "llm.jsonl", "--url", double.url, "-m", "m")
        assert result.exit_code == 0, result.stderr
    assert all(re.match(r"right answer; 1 of 2", row["reason"]) for row in rows_of(tmp_path / "llm.jsonl"))


@pytest.mark.parametrize(
    ("text", "facts"),
    [
        ('{"facts": ["a", " b  c "]}', ["a", "b c"]),
        ("<info1>a</info1>\n<info2>b</info2>", ["a", "b"]),
        ('```json\n["a"]\n```', ["a"]),
        ("- a\n- b", ["a", "b"]),
        ("1. a\n2) b", ["a", "b"]),
        ('{"facts": []}', []),
        ("I see a triangle.", None),
        ('{"facts": [1]}', None),
    ],
)
def test_facts_in_an_answer(text: str, facts: list[str] | None) -> None:
    assert read_facts(text) == facts


def test_tidy_keeps_facts_that_differ_in_a_number_or_a_name() -> None:
    facts = ["The bar for May is 30", "The bar for May is 31", "the bar for May is 30", "AB = 5", "AC = 5"]
    assert tidy("Find x.", facts) == (("The bar for May is 30", "The bar for May is 31", "AB = 5", "AC = 5"), 1)


def test_a_judge_that_goes_away_ends_it_and_what_was_done_is_kept(
    problems: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from perception_r1.vpr import score

    monkeypatch.setattr(score, "_CHUNK", 2)
    data, out = tmp_path / "responses.jsonl", tmp_path / "judged.jsonl"
    rows = [{**row, "id": str(i), "response": f"AB = {i}"} for i, row in enumerate(rows_of(problems) * 2)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    answered = 0

    def behave(body: dict[str, Any], n: int) -> Any:
        nonlocal answered
        answered += 1
        return json.dumps({"verdicts": [{"id": i, "verdict": "absent"} for i in (1, 2)]}) if answered <= 2 else 403

    with ChatDouble(behave) as double:
        words = ("judge", data, "-o", out, "--url", double.url, "-m", "m")
        result = pr1(*words)
        assert result.exit_code == 2 and "403" in result.stderr and "--resume goes on" in result.stderr
        assert len(double.bodies) == 4  # the second pair is the last
    assert len(rows_of(out)) == 2


def test_whatever_a_model_wrote_is_written_and_read_back(tmp_path: Path) -> None:
    from perception_r1.vpr.steps import appending, finished_rows, read_rows, write_rows

    file = tmp_path / "rows.jsonl"
    rows = [
        {"id": str(i), "response": f"a{odd}b"} for i, odd in enumerate(("\u2028", "\x85", "\x1e", "\ud83d", "\r\n"))
    ]
    with appending(file) as write:
        for row in rows:
            write(row)
    assert read_rows(file) == finished_rows(file) == rows
    write_rows(file, rows)
    assert read_rows(file) == rows


def test_other_data_or_another_model_never_gets_the_rows_of_before(problems: Path, tmp_path: Path) -> None:
    chains = tmp_path / "chains.jsonl"
    answers, rows = pictures(problems), rows_of(problems)

    def distill(double: ChatDouble, *more: object) -> Any:
        words = ("distill", problems, "-o", chains, "--url", double.url, "-m", "vlm", "--resume", "-q")
        result = pr1(*words, *more)
        assert result.exit_code == 0 or len(result.stderr.strip().splitlines()) == 1
        return result

    served = [{"id": "vlm", "root": "org/vlm"}]
    with ChatDouble(solver(answers), served) as double:
        write_lines(problems, rows[:2])
        assert distill(double).exit_code == 0 and len(rows_of(chains)) == 2
        write_lines(problems, rows)  # more data: what is there is kept
        assert "2 before" in distill(double).stdout and len(rows_of(chains)) == 4
        n = len(double.bodies)
        for field, value in (("question", "Find another."), ("answer", "77")):
            write_lines(problems, [{**rows[0], field: value}, *rows[1:]])
            result = distill(double)
            assert result.exit_code == 2 and "1 rows answer another input" in result.stderr
            assert f"'{rows[0]['id']}#0'" in result.stderr
        write_lines(problems, rows)
        picture = problems.parent / rows[0]["image"]
        before = picture.read_bytes()
        Image.new("RGB", Image.open(picture).size, "white").save(picture)
        assert "answer another input" in distill(double).stderr
        picture.write_bytes(before)
        for option in (("--temperature", "0.5"), ("--extra", '{"top_p": 0.9}')):
            assert "other settings (decoding)" in distill(double, *option).stderr
        served[0]["root"] = "org/another"
        assert "other settings (root)" in distill(double).stderr
        assert len(double.bodies) == n and len(rows_of(chains)) == 4  # nothing was asked, nothing was lost
        served[0]["root"] = "org/vlm"
        settings = chains.with_name("chains.jsonl.settings.json")
        values = json.loads(settings.read_text())
        settings.write_text(json.dumps({"model": "vlm", "prompt": values["prompt"]}))  # as earlier versions wrote it
        assert "does not say with which root, decoding it was made" in distill(double).stderr


def test_judged_rows_are_those_of_the_same_response(problems: Path, tmp_path: Path) -> None:
    data, out = tmp_path / "responses.jsonl", tmp_path / "judged.jsonl"
    rows = [{**row, "response": f"\\boxed{{{row['answer']}}}"} for row in rows_of(problems)]
    write_lines(data, rows[:3])
    assert pr1("judge", data, "-o", out).exit_code == 0
    write_lines(data, rows)
    assert "3 before" in pr1("judge", data, "-o", out, "--resume").stdout
    write_lines(data, [{**rows[0], "response": "I do not know."}, *rows[1:]])
    result = pr1("judge", data, "-o", out, "--resume")
    assert result.exit_code == 2 and "1 rows answer another input" in result.stderr


def test_facts_are_those_of_the_same_chains(problems: Path, tmp_path: Path) -> None:
    chains, out = tmp_path / "chains.jsonl", tmp_path / "facts.jsonl"
    rows = [{**row, "response": "<think>AB = 1.</think>"} for row in rows_of(problems)]
    write_lines(chains, rows)
    with ChatDouble(lambda body, n: '{"facts": ["AB = 1"]}') as double:
        words = ("annotate", chains, "-o", out, "--url", double.url, "-m", "llm", "--resume", "-q")
        assert pr1(*words).exit_code == 0
        n = len(double.bodies)
        assert "4 before" in pr1(*words).stdout and len(double.bodies) == n
        write_lines(chains, [{**rows[0], "response": "<think>AC = 2.</think>"}, *rows[1:]])
        assert "1 rows answer another input" in pr1(*words).stderr


def test_sampling_is_plain_and_reasoning_is_put_back_or_left_out(problems: Path, tmp_path: Path) -> None:
    """A vision model's thoughts belong to its chain; a text model's are not facts."""

    def behave(body: dict[str, Any], n: int) -> Any:
        strange = [name for name in ("top_k", "min_p", "repetition_penalty") if name in body]
        if strange:
            return ("refuse", 400, f"Unrecognized request arguments supplied: {', '.join(strange)}")
        made = completion("")
        thought = {"reasoning_content": "AB = 1. [maybe]", "content": content}
        made["choices"][0]["message"] = {"role": "assistant", **thought}
        return made

    chains, facts = tmp_path / "chains.jsonl", tmp_path / "facts.jsonl"
    with ChatDouble(behave) as double:
        content = "<answer>\\boxed{1}</answer>"
        result = pr1("distill", problems, "-o", chains, "--url", double.url, "-m", "m", "-q")
        assert result.exit_code == 0, result.stderr
        assert "note: the server does not take top_k, min_p, repetition_penalty: its own values apply" in result.stderr
        assert double.bodies[0].items() >= PLAIN_DECODING.items() and double.bodies[0]["temperature"] == 1.0
        assert {row["response"] for row in rows_of(chains)} == {f"<think>AB = 1. [maybe]</think>{content}"}
        content = '{"facts": ["AC = 2"]}'
        assert pr1("annotate", chains, "-o", facts, "--url", double.url, "-m", "m", "-q").exit_code == 0
        assert all(row["visual_annotations"] == ["AC = 2"] for row in rows_of(facts))
        assert double.bodies[-1]["temperature"] == 0.0
