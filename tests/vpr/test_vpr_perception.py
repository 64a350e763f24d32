"""The perception study: the sheet is blind, safe and works in a browser; labels give the exact test."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from perception_r1.cli import app
from perception_r1.data.geometry import make_diagrams
from perception_r1.errors import DataError
from perception_r1.vpr.perception import pick, read_labels, read_responses, study, swapped, write_sheet

EVIL = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">"


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    samples = make_diagrams(6, seed=1, size=64, out_dir=tmp_path / "pictures")
    for name in ("a", "b"):
        rows = [
            {"id": s.id, "image": s.image, "question": s.question, "response": f"{name} says {EVIL}"} for s in samples
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path / "a.jsonl", tmp_path / "b.jsonl"


def test_the_papers_figures() -> None:
    """Discordant pairs (1, 5), (2, 4), (2, 10) of 50: exact p 0.22, 0.69, 0.04."""
    for b, c, p in ((1, 5, 0.21875), (2, 4, 0.6875), (2, 10, 0.03857)):
        pairs = [(True, False)] * b + [(False, True)] * c + [(True, True)] * (50 - b - c)
        labels = {
            str(i): {"a": {"right": x, "error": ""}, "b": {"right": y, "error": "" if y else "other"}}
            for i, (x, y) in enumerate(pairs)
        }
        found = study(labels, 50)
        assert (found.only_a, found.only_b, found.unlabelled) == (b, c, 0)
        assert found.p == pytest.approx(p, abs=1e-4)
        assert found.errors_b == {"other": b}


def test_sides_are_mixed_seeded_and_not_in_the_page(files: tuple[Path, Path], tmp_path: Path) -> None:
    assert {swapped(1, str(i)) for i in range(20)} == {True, False}
    pairs = pick(read_responses(files[0]), read_responses(files[1]), 6, 1)
    write_sheet(pairs, tmp_path / "s.html", seed=1)
    page = (tmp_path / "s.html").read_text()
    assert "a.jsonl" not in page and "b.jsonl" not in page and "swapped" not in page
    assert EVIL not in page and "</script><script>" not in page
    assert page.count("data:image/png;base64,") == 6


def test_labels_of_another_sheet_are_refused(files: tuple[Path, Path], tmp_path: Path) -> None:
    pairs = pick(read_responses(files[0]), read_responses(files[1]), 6, 1)
    path = tmp_path / "labels.json"
    path.write_text(json.dumps({"key": "0", "labels": {}}))
    with pytest.raises(DataError, match="belongs to another sheet"):
        read_labels(path, pairs, seed=1)
    path.write_text("{}")
    with pytest.raises(DataError, match="holds no labels"):
        read_labels(path, pairs, seed=1)
    # The same two files the other way round: A's labels would be counted as B's.
    key = write_sheet(pairs, tmp_path / "s.html", seed=1)
    path.write_text(json.dumps({"key": key, "labels": {}}))
    assert read_labels(path, pairs, seed=1) == {}
    with pytest.raises(DataError, match="belongs to another sheet"):
        read_labels(path, [(b, a) for a, b in pairs], seed=1)


def test_command_reads_labels_back_to_the_right_model(files: tuple[Path, Path], tmp_path: Path) -> None:
    words = [
        "vpr",
        "perception",
        str(files[0]),
        str(files[1]),
        "--n",
        "4",
        "--seed",
        "3",
        "-o",
        str(tmp_path / "s.html"),
    ]
    result = CliRunner().invoke(app, words)
    assert result.exit_code == 0, result.stderr
    key = result.stdout.partition("labels-")[2][:12]
    pairs = pick(read_responses(files[0]), read_responses(files[1]), 4, 3)
    labels: dict[str, Any] = {}
    for a, _ in pairs:  # A read every picture rightly, B none
        name = str(a["id"])
        right, wrong = {"right": True, "error": ""}, {"right": False, "error": "something missed"}
        labels[name] = {"left": wrong, "right": right} if swapped(3, name) else {"left": right, "right": wrong}
    (tmp_path / "labels.json").write_text(json.dumps({"key": key, "labels": labels}))
    result = CliRunner().invoke(app, [*words, "--labels", str(tmp_path / "labels.json"), "--json"])
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert (found["only_a"], found["only_b"], found["p"]) == (4, 0, 0.125)
    assert found["errors_b"] == {"something missed": 4}


def test_in_a_browser(files: tuple[Path, Path], tmp_path: Path) -> None:
    api = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium")
    pairs = pick(read_responses(files[0]), read_responses(files[1]), 2, 1)
    write_sheet(pairs, tmp_path / "s.html", seed=1)
    with api.sync_playwright() as play:
        browser = play.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1200, "height": 1000})
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto((tmp_path / "s.html").as_uri())
        assert page.locator("article").count() == 2
        assert page.locator("#count").inner_text() == "0 of 2 labelled"
        assert EVIL in page.locator("pre").first.inner_text()
        for section in page.locator("section").all():
            section.locator("input[value=true]").check()
        assert page.locator("#count").inner_text() == "2 of 2 labelled"
        page.locator("section").first.locator("input[value=false]").check()
        page.locator("section").first.locator("select").select_option("wrong relation")
        with page.expect_download() as download:
            page.locator("#save").click()
        saved = tmp_path / "labels.json"
        download.value.save_as(saved)
        assert page.title() == "What does the picture show?"
        page.screenshot(path=str(tmp_path / "sheet.png"), full_page=True)
        browser.close()
    assert not errors
    labels = read_labels(saved, pairs, seed=1)
    assert sum(not one[m]["right"] for one in labels.values() for m in ("a", "b")) == 1
