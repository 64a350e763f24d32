from __future__ import annotations

import re
import shutil

import pytest
from PIL import Image

from perception_r1.errors import UserError
from perception_r1.evaluate.results import read_results
from perception_r1.report.draw import HIT, MISS, draw_answer, save_answer
from perception_r1.report.gallery import build_gallery, choose, drawn_boxes, outcome
from perception_r1.report.runs import load_runs
from perception_r1.rewards.objects import hits
from perception_r1.types import BoxTarget, Completion, RewardRecord, Sample

pytest.importorskip("jinja2")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def page(run_folder):
    from perception_r1.report import write_report

    return write_report([run_folder], title="Digits & <counting>", subtitle="a < b", unit="held-out scenes", gallery=40)


def test_finds_everything_in_order(run_folder):
    evaluations, trainings = load_runs([run_folder])
    assert [e.title for e in evaluations] == ["Warm start", "SFT", "RL (GRPO)"]
    assert [(t.title, t.is_rl) for t in trainings] == [("SFT", False), ("RL (GRPO)", True)]
    assert trainings[1].seconds == 61.0
    assert trainings[1].steps == 30  # the half line of a kill is left out


def test_nothing_to_report(tmp_path):
    with pytest.raises(UserError, match="no such run folder"):
        load_runs([tmp_path / "none"])
    with pytest.raises(UserError, match="holds no run"):
        load_runs([tmp_path])


def test_page_says_what_happened(page):
    html = page.read_text(encoding="utf-8")
    # Warm start: every second scene is one short; RL: every eighth, and one unreadable answer.
    assert "raised count accuracy from 50.0 % to 85.0 % on 40 held-out scenes" in html
    assert "SFT came to 65.0 %" in html
    assert "learning rate 0.0001 · seed 7" in html
    assert "Digits &amp; &lt;counting&gt;" in html
    for title in (
        "Reward",
        "Reward on data.eval",
        "KL to the start",
        "Length of the answers",
        "Entropy",
        "Gradient norm",
    ):
        assert f"<h3>{title}</h3>" in html


def test_page_is_one_file_and_model_text_stays_text(page):
    html = page.read_text(encoding="utf-8")
    assert html.count("<script") == 1
    assert not re.search(r'(?:src|href)="(?!data:|#)', html)
    assert "url(" not in html
    assert "&lt;script&gt;document.title=" in html
    assert "&lt;/script&gt;&lt;b&gt;no&lt;/b&gt;" in html


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found (apt-get install chromium)")
def test_page_in_chromium(page):
    sync_api = pytest.importorskip("playwright.sync_api")
    flags = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags.split())
        tab = browser.new_page(viewport={"width": 1200, "height": 900})
        trouble, requests = [], []
        tab.on("pageerror", lambda error: trouble.append(str(error)))
        tab.on("console", lambda message: trouble.append(message.text))
        tab.on("request", lambda request: requests.append(request.url.split(":")[0]))
        tab.goto(page.as_uri())
        assert tab.title() == "Digits & <counting>"
        assert set(requests) <= {"file", "data"}
        # What a model said is shown, not run.
        said = tab.locator("pre.said").all_text_contents()
        assert any('<script>document.title="hacked"</script>' in text for text in said)
        assert tab.locator(".shot script, .shot .said img, .shot .said b").count() == 0
        # The filter leaves one group, and brings all back.
        shown = lambda: tab.locator("[data-outcome]:visible")  # noqa: E731
        everything = shown().count()
        tab.get_by_role("button", name="Improved").click()
        assert 0 < shown().count() < everything
        assert {card.get_attribute("data-outcome") for card in shown().all()} == {"improved"}
        tab.get_by_role("button", name="All").click()
        assert shown().count() == everything
        # Pictures are drawn with boxes, and pointing at a chart reads it.
        assert tab.locator("svg.scene use").count() == 3 * everything
        assert tab.locator("svg.scene rect.hit").count() > 3 * everything
        tab.locator("figure.chart", has=tab.get_by_text("Reward", exact=True)).locator("svg").hover()
        assert re.fullmatch(
            r"step \d+\n[\d.]+", tab.locator("figure.chart .tip").filter(has_text="step").first.inner_text()
        )
        # No sideways scrolling, on a phone either.
        tab.set_viewport_size({"width": 400, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") <= 400
        assert trouble == []
        browser.close()


def test_outcomes():
    assert [outcome(0, 1), outcome(1, 0.5), outcome(1, 1), outcome(0.5, 0.5)] == [
        "improved",
        "worsened",
        "right",
        "same",
    ]
    assert [outcome(1, None), outcome(0.2, None), outcome(0, None)] == ["right", "partly", "wrong"]


def test_choice_is_even_and_seeded():
    groups = {"a": [f"a{i}" for i in range(50)], "b": [f"b{i}" for i in range(50)], "c": ["c0"], "d": []}
    chosen = choose(groups, 11, seed=0)
    assert len(set(chosen)) == 11
    assert sorted(key[0] for key in chosen) == ["a"] * 5 + ["b"] * 5 + ["c"]
    assert chosen == choose(groups, 11, seed=0) != choose(groups, 11, seed=1)
    assert len(choose(groups, 999, seed=0)) == 101


def test_gallery_counts_all_samples(run_folder):
    gallery = build_gallery(load_runs([run_folder])[0], n=12)
    assert sum(group["all"] for group in gallery["groups"]) == gallery["total"] == 40
    assert sum(group["shown"] for group in gallery["groups"]) == len(gallery["cards"]) == 12
    assert all(card["picture"].startswith("data:image/png;base64,") for card in gallery["cards"])


def _result(boxes, labels, pred, names, task="detection"):
    from perception_r1.evaluate.results import Result

    sample = Sample("a", task, "", BoxTarget(boxes, labels), image_size=(100, 100))
    record = RewardRecord(0.5, pred_xyxy=pred, pred_labels=names, n_pred=len(pred), n_valid=len(pred))
    return Result(sample, Completion(""), record)


def test_a_target_is_hit_once_and_by_its_label():
    cat = (0, 0, 50, 50)
    result = _result((cat,), ("cat",), (cat, cat, None, (60, 60, 90, 90)), ("Cat", "cat", "cat", "cat"))
    assert [shape["hit"] for shape in drawn_boxes(result)] == [True, False, False]
    assert not drawn_boxes(_result((cat,), ("cat",), (cat,), ("dog",)))[0]["hit"]
    assert drawn_boxes(_result((cat,), ("cat",), (cat,), ("dog",), task="counting"))[0]["hit"]


def test_the_picture_draws_the_pairs_that_the_metric_counts():
    # The first box overlaps the second target best, and the first target is the only one within reach of it otherwise.
    boxes, pred = ((0, 0, 100, 100), (41, 0, 111, 100)), ((24, 0, 122, 100), (38, 0, 143, 100))
    result = _result(boxes, ("cat", "cat"), pred, ("cat", "cat"))
    assert hits(result.sample, result.record) == ((0, 0), (1, 1))
    assert [shape["hit"] for shape in drawn_boxes(result)] == [True, True]


def test_drawing(tmp_path, run_folder):
    right, wrong = (10, 10, 50, 50), (60, 60, 90, 90)
    image = draw_answer(_result((right,), (), (right, wrong), (None, None), "counting"), side=200)
    assert image.size == (200, 200)
    for colour, (x, y) in ((HIT, (20, 60)), (MISS, (120, 150))):  # the left edge of either box, twice enlarged
        near = [image.getpixel((x + dx, y)) for dx in (0, 1, 2)]
        assert min(sum(abs(a - b) for a, b in zip(pixel, colour, strict=True)) for pixel in near) < 30
    path = save_answer(read_results(run_folder / "eval" / "rl")[0], tmp_path / "a.png")
    with Image.open(path) as img:
        assert max(img.size) == 640


def test_still_picture(tmp_path, run_folder):
    pytest.importorskip("matplotlib")
    from perception_r1.report.picture import write_picture

    with Image.open(write_picture([run_folder], tmp_path / "report.png", title="Digits")) as img:
        assert img.width > 1500


def test_missing_pictures_leave_a_page(tmp_path, run_folder):
    """A run folder that was copied without its images."""
    from perception_r1.report import write_report

    copy = tmp_path / "copy"
    shutil.copytree(run_folder / "eval", copy)
    for file in copy.glob("*/samples.jsonl"):
        file.write_text(file.read_text(encoding="utf-8").replace("/scenes/", "/gone/"), encoding="utf-8")
    html = write_report([copy], tmp_path / "r.html", gallery=6).read_text(encoding="utf-8")
    assert "data:image" not in html.split("</style>")[1]
    assert html.count('class="scene"') == 18


def test_one_evaluation_alone(tmp_path, run_folder):
    from perception_r1.report import write_report

    html = write_report([run_folder / "eval" / "sft"], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "SFT: count accuracy 65.0 % on 40 samples." in html
    assert "Last − first" not in html
    assert 'value="wrong"' in html


def test_no_difference_is_not_painted_as_one(tmp_path, run_folder):
    from perception_r1.report import write_report

    for name in ("first", "second"):
        shutil.copytree(run_folder / "eval" / "sft", tmp_path / name)
    html = write_report([tmp_path], tmp_path / "r.html").read_text(encoding="utf-8")
    assert "No clear change: second took count accuracy" in html
    assert 'class="gain "' in html
    assert 'class="better"' not in html
    assert 'class="worse"' not in html


def test_command(tmp_path, run_folder, capsys):
    from perception_r1.cli import main

    with pytest.raises(SystemExit) as ended:
        main(["report", str(run_folder), "--out", str(tmp_path / "x.html"), "--title", "Mine"])
    assert ended.value.code == 0
    assert "<title>Mine</title>" in (tmp_path / "x.html").read_text(encoding="utf-8")
    with pytest.raises(SystemExit) as ended:
        main(["report", str(tmp_path / "none")])
    assert ended.value.code == 2
    assert "no such run folder" in capsys.readouterr().err


@pytest.mark.parametrize(("values", "note"), [([2e-6], "differ by 2e-06 nats"), ([0.4], "0.4 nats away"), ([], "")])
def test_one_comparison_of_rollouts_is_a_sentence_and_not_an_empty_chart(values, note):
    from perception_r1.report.build import _curves
    from perception_r1.report.runs import Training

    logs = [{"step": n, "reward": 0.1 * n, "kl": 0.0} for n in (1, 2, 3)]
    for log, value in zip(logs, values, strict=False):
        log["sampling/sampling_logp_difference/mean"] = value
    curves = _curves(Training("rl", logs, {"grpo": {"beta": 0.04}}))
    assert curves["note"].endswith(f"{note}." if note else "")
    assert bool(curves["note"]) == bool(note)
    assert all(chart["title"] != "Rollouts against the policy" for chart in curves["charts"])
