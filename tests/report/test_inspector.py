from __future__ import annotations

import base64
import json
import re
import shutil
import zlib
from dataclasses import replace

import pytest

pytest.importorskip("jinja2")
pytest.importorskip("pyarrow")
pytest.importorskip("transformers")

from perception_r1.analysis.rollouts import group_of, write_groups, zero_reason
from perception_r1.report.inspector import (
    FILTERS,
    build_inspector,
    disagreement,
    group_flags,
)
from perception_r1.tasks import make_task
from perception_r1.types import BoxTarget, Completion, RewardRecord, Sample

EVIL = '<script>document.title="hacked"</script><img src=x onerror="document.title=\'hacked\'">'
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
BITS = {title: bit for bit, title, _ in FILTERS}


@pytest.fixture(scope="module")
def big_run(tmp_path_factory):
    """10,000 rollouts: 125 steps of ten groups of eight, over 50 real scenes, answers scored by the real task."""
    pytest.importorskip("sklearn")
    from perception_r1.data.digits import make_scenes

    out = tmp_path_factory.mktemp("big") / "grpo"
    samples = make_scenes("counting", 50, seed=1, min_digits=2, max_digits=5, out_dir=out / "scenes")
    task = make_task("counting", family="qwen3_vl")

    def answers(index: int, sample: Sample) -> list[str]:
        boxes = sample.target.boxes_xyxy
        gold, short = (task.gold(replace(sample, target=BoxTarget(part))) for part in (boxes, boxes[1:]))
        if index == 0:
            return ["[]"] * 8  # all zero
        if index == 1:
            return [gold] * 8  # all right: no spread
        if index == 2:
            return [EVIL + gold, "nothing I can read</script>", *[gold, short] * 3]
        return [gold, gold, short, short, "[]", gold, short, gold]

    groups = []
    for index, sample in enumerate(samples):
        answered = [(Completion(text, "stop"), task.score(sample, text)) for text in answers(index, sample)]
        groups.append(group_of(0, sample, answered))
    write_groups(
        out / "rollouts",
        [replace(groups[(10 * (step - 1) + i) % 50], step=step) for step in range(1, 126) for i in range(10)],
    )
    (out / "metrics.jsonl").write_text("".join(json.dumps({"step": i, "reward": 0.5}) + "\n" for i in range(1, 126)))
    (out / "config.json").write_text(json.dumps({"name": "big", "grpo": {"learning_rate": 1e-4}}))
    return out


def unpacked(text: str):
    return json.loads(zlib.decompress(base64.b64decode(text)))


def test_everything_is_there_and_counted(big_run):
    found = build_inspector(big_run)
    assert (found["n_rollouts"], found["n_groups"], found["total"]) == (10_000, 1250, 10_000)
    assert {f["title"]: f["n"] for f in found["filters"]} == {
        "All zero": 25,
        "Zero spread": 50,
        "Unparsable": 25,
        "Reward up, metric down": 0,
    }
    reasons = {reason["text"]: reason["n"] for reason in found["reasons"]}
    assert reasons["says that nothing is there"] == 25 * 8 + 47 * 25
    assert found["n_zero"] == sum(reasons.values())
    data = unpacked(found["data"])
    assert len(data["groups"]) == 1250 and len(data["samples"]) == 50 == len(json.loads(found["pictures"]))
    assert len(build_inspector(big_run, limit=800)["steps"]) == 10
    assert build_inspector(big_run, limit=0) is None


def test_a_run_without_rollouts_has_no_inspector(tmp_path):
    assert build_inspector(tmp_path) is None


def test_pairs_and_advantages_are_those_of_the_record(big_run):
    data = unpacked(build_inspector(big_run, limit=80)["data"])
    step, index, flags, _, spread, answers = next(g for g in data["groups"] if not g[2])
    assert (step, flags) == (1, 0) and spread > 0
    gold, truth = answers[0], data["samples"][index][6]
    assert gold[1] == pytest.approx(1, abs=0.05)  # rounded to the frame's units
    assert [box[5] for box in gold[10]] == list(range(len(truth)))  # each box on its own target
    assert all(box[6] > 0.9 for box in gold[10])
    assert [bool(a[2] > 0) for a in answers] == [a[1] > sum(b[1] for b in answers) / 8 for a in answers]


def test_reward_against_metric():
    sample = Sample("a", "counting", "dog", BoxTarget(((0, 0, 9, 9), (20, 20, 29, 29))), image_size=(100, 100))

    def group(*pairs: tuple[float, int]):
        records = [RewardRecord(reward, n_pred=n, n_valid=n, n_target=2) for reward, n in pairs]
        return group_of(1, sample, [(Completion(""), record) for record in records])

    against = group((0.9, 1), (0.5, 2), (0.1, 2))  # the metric is the right number, 2
    assert disagreement(against) == 2
    assert group_flags(against) == BITS["Reward up, metric down"]
    assert disagreement(group((0.9, 2), (0.5, 1))) == -1
    assert group_flags(group((0.0, 1), (0.0, 2))) == BITS["All zero"] | BITS["Zero spread"]
    assert group_flags(group((0.4, 1), (0.4, 2))) == BITS["Zero spread"]


def test_reasons_of_zero_say_what_went_wrong():
    task = make_task("counting", family="qwen3_vl")
    sample = Sample("a", "counting", "dog", BoxTarget(((0, 0, 50, 50),)), image_size=(100, 100))
    for text, reason in (
        ("[]", "says that nothing is there"),
        ("I see dogs.", "unreadable: no box, point or explicit empty answer"),
        ('[{"bbox_2d": [9, 9, 1, 1], "label": "dog"}]', "no usable entry"),
    ):
        record = task.score(sample, text)
        assert (record.reward, zero_reason(record)) == (0.0, reason)
    far = RewardRecord(0.0, n_pred=1, n_valid=1, n_target=1, pred_xyxy=((80, 80, 90, 90),))
    assert zero_reason(far) == "entries given, none on a target"
    assert zero_reason(replace(far, n_target=0)) == "nothing to find, but something given"
    assert zero_reason(replace(far, pairs=((0, 0),))) == "pairs found, but a gate or the clamp made it 0"


def test_an_alarm_when_the_reward_rises_while_the_metric_falls(tmp_path):
    sample = Sample("a", "counting", "dog", BoxTarget(((0, 0, 9, 9), (20, 20, 29, 29))), image_size=(100, 100))

    def run(name, metric_falls):
        groups = []
        for step in range(1, 21):
            good = step <= 10 if metric_falls else step > 10
            records = [RewardRecord(step / 40 + j / 100, n_pred=2, n_valid=2 if good else 1) for j in range(4)]
            groups.append(group_of(step, sample, [(Completion(""), record) for record in records]))
        write_groups(tmp_path / name, groups)
        return build_inspector(tmp_path / name)["alarm"]

    assert run("fine", False) == ""
    assert run("gamed", True).startswith("From steps 1–4 to 17–20 the reward rose by 0.400 while Count accuracy of the")


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found (apt-get install chromium)")
def test_in_chromium(big_run, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    from perception_r1.report import write_report

    page = write_report([big_run], tmp_path / "r.html", title="Big")
    assert not re.search(r'(?:src|href)="(?!data:|#)', page.read_text(encoding="utf-8"))
    flags = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags.split())
        tab = browser.new_page(viewport={"width": 1200, "height": 900})
        trouble, requests, opened = [], [], []
        session = tab.context.new_cdp_session(tab)
        session.send("Performance.enable")

        def processor_seconds() -> float:
            metrics = session.send("Performance.getMetrics")["metrics"]
            return next(metric["value"] for metric in metrics if metric["name"] == "ProcessTime")

        tab.on("pageerror", lambda error: trouble.append(str(error)))
        tab.on("console", lambda message: trouble.append(message.text))
        tab.on("request", lambda request: requests.append(request.url.split(":")[0]))
        for _ in range(3):  # the best of three, or where others keep the machine busy: what it took of a core
            before = processor_seconds()
            tab.goto(page.as_uri(), timeout=120_000)
            tab.wait_for_selector("[data-inspector][data-ready]", timeout=120_000)
            opened.append(int(tab.locator("[data-inspector]").get_attribute("data-ready")))
            opened.append(round(1000 * (processor_seconds() - before)))
            if min(opened) < 2000:
                break
        assert min(opened) < 2000, opened
        assert set(requests) <= {"file", "data"}
        cards = tab.locator(".group")
        place = tab.locator("[data-place]")
        assert (cards.count(), place.inner_text()) == (5, "1250 groups, page 1 of 250")
        assert cards.nth(3).locator(".panel").count() == 8
        # Ground truth and paired boxes are drawn, over the picture.
        scene = cards.nth(3).locator("svg.scene").first
        truth = scene.locator("rect.truth").count()
        assert truth >= 2 and scene.locator("rect.hit").count() == truth == scene.locator("line.pair").count()
        assert scene.locator("image").get_attribute("href").startswith("data:image/webp;base64,")
        # What the model said is text; groups of one step; a filter; a reason; the next page.
        assert any(EVIL in text for text in tab.locator("pre.said").all_text_contents())
        assert tab.locator(".group script, .group img").count() == 0 and tab.title() == "Big"
        tab.locator("[data-step]").select_option("7")
        assert place.inner_text() == "10 groups, page 1 of 2"
        tab.locator('[data-go="1"]').click()
        assert place.inner_text() == "10 groups, page 2 of 2"
        tab.locator("[data-step]").select_option("all")
        tab.get_by_role("button", name="All zero").click()
        assert place.inner_text() == "25 groups, page 1 of 5"
        assert set(tab.locator(".group .who .even").all_text_contents()) == {"+0.00"}
        tab.get_by_role("button", name="All groups").click()
        tab.get_by_role("button", name="unreadable").click()
        assert place.inner_text() == "25 groups, page 1 of 5"
        tab.get_by_role("button", name="unreadable").click()
        tab.locator("[data-order]").select_option("late")
        assert "step 125" in cards.first.inner_text()
        assert tab.get_by_role("button", name="Reward up").is_disabled()
        tab.set_viewport_size({"width": 400, "height": 800})
        assert tab.evaluate("document.documentElement.scrollWidth") <= 400
        assert trouble == []
        browser.close()
