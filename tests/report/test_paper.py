from __future__ import annotations

import json
import re
import shutil

import pytest
from PIL import Image

from perception_r1.errors import DataError, UserError
from perception_r1.evaluate.benchmarks import BENCHMARKS, SIZES
from perception_r1.evaluate.lmms_results import read_lmms_results
from perception_r1.evaluate.run import evaluate
from perception_r1.report import write_report
from perception_r1.report.paper import PAPERS, paper_tables, published
from perception_r1.report.paper_page import markdown, write_paper_report
from perception_r1.tasks import make_task
from perception_r1.types import BoxTarget, Completion, CountTarget, Sample

pytest.importorskip("jinja2")
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
HACK = "<script>document.title='hacked'</script>"


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A grounding model on two splits (3 of 4 right on val), and a counting model."""
    folder = tmp_path_factory.mktemp("runs")
    Image.new("RGB", (64, 48), "gray").save(folder / "a.png")
    good, bad = "<|box_start|>(0,0),(500,500)<|box_end|>", f"<|box_start|>(900,900),(999,999)<|box_end|>{HACK}"
    task = make_task("grounding", family="qwen2_vl")
    for name, texts in (("refcoco-val", [good, good, good, bad]), ("refcoco-testA", [good] * 2)):
        samples = [
            Sample(str(i), "grounding", f"cup {i} {HACK}", BoxTarget(((0, 0, 32, 24),)), str(folder / "a.png"))
            for i in range(len(texts))
        ]
        answers = {str(i): Completion(text) for i, text in enumerate(texts)}
        evaluate(
            task,
            samples,
            answers,
            folder / "grounding" / name,
            model_name="my|model",
            progress=False,
            resamples=100,
            benchmark=name,
        )
    count = Sample("1", "counting", "cups", CountTarget(1), str(folder / "a.png"))
    evaluate(
        make_task("counting", family="qwen2_vl"),
        [count],
        {"1": Completion(good)},
        folder / "counting",
        model_name="counter",
        progress=False,
        resamples=100,
        benchmark="pixmo-count-test",
    )
    return folder


def test_published_tables_hold_what_the_benchmarks_name():
    tables = {table["benchmark"]: table for table in published()["tables"]}
    for benchmark in BENCHMARKS.values():
        assert set(benchmark.columns.values()) <= set(tables[benchmark.table]["columns"])
        assert benchmark.name in SIZES
    for keys in PAPERS.values():
        assert set(keys) <= tables.keys()
    pr1 = next(row for row in tables["pageocr"]["rows"] if row["method"] == "Perception-R1")
    assert (pr1["values"]["edit_distance/en"], pr1["values"]["f1/en"]) == (3.5, 98.2)


def test_our_rows_stand_below_the_published_ones(runs):
    tables = {table.key: table for table in paper_tables("pr1", [runs])}
    refcoco = tables["refcoco"]
    assert [row.name for row in refcoco.rows][-2:] == ["Perception-R1", "my|model"]
    ours = refcoco.rows[-1].values
    assert ours["val@50"]["value"] == 75.0
    assert ours["val@50"]["low"] < 75.0 <= ours["val@50"]["high"]
    assert ours["testA@50"]["value"] == 100.0
    assert "testB@50" not in ours
    assert refcoco.notes == [
        "my|model: val@50, val@75, val@95, valAvg on 4 of 10,834 samples; "
        "testA@50, testA@75, testA@95, testAAvg on 2 of 5,657 samples"
    ]
    assert tables["pixmo-count"].rows[-1].values["test"]["value"] == 100.0
    ablation = tables["ablation"].rows
    assert ablation[-2].values["refcoco"]["value"] == 75.0
    assert ablation[-1].values["pixmo/test"]["value"] == 100.0
    assert tables["ablation"].notes[1] == "counter: pixmo/test on 1 of 540 samples"
    assert not tables["coco2017"].has_ours


def test_markdown_and_json(runs, tmp_path):
    page, text, data = write_paper_report("pr1", [runs], tmp_path / "p.html")
    lines = text.read_text().splitlines()
    ours = next(line for line in lines if line.startswith("| **my\\|model** (ours) | **75.0**"))
    assert "Δ −14.1 |" in ours  # against 89.1
    assert "| Qwen2-VL 2B | 86.8 |" in text.read_text()
    assert "Not evaluated: RefCOCO+, RefCOCOg, PageOCR, COCO 2017, General understanding." in text.read_text()
    tables = {table["benchmark"]: table for table in json.loads(data.read_text())["tables"]}
    assert len(tables) == len(PAPERS["pr1"])
    assert tables["refcoco"]["rows"][-1]["source"] == "ours"
    assert page.name == "p.html"


def test_markdown_of_a_hostile_name_stays_one_cell():
    tables = paper_tables.__globals__["Table"]
    row = paper_tables.__globals__["Row"]("a|b\n<b>*x*", True, {"val": {"value": 1.0}})
    text = markdown("pr1", [tables("pixmo-count", "t", ["val"], [row])])
    assert "| **a\\|b &lt;b>\\*x\\*** (ours) | **1.0** |" in text


def test_one_file_and_model_text_stays_text(runs, tmp_path):
    page, *_ = write_paper_report("pr1", [runs], tmp_path / "p.html")
    html = page.read_text(encoding="utf-8")
    assert html.count("<script") == 1
    assert not re.search(r'(?:src|href)="(?!data:|#)', html)
    assert "&lt;script&gt;document.title=" in html
    assert "RefCOCO val: what the models see" in html


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium found (apt-get install chromium)")
def test_in_chromium(runs, tmp_path):
    sync_api = pytest.importorskip("playwright.sync_api")
    page, *_ = write_paper_report("pr1", [runs], tmp_path / "p.html")
    flags = "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-sync"
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=flags.split())
        tab = browser.new_page(viewport={"width": 1200, "height": 900})
        trouble, requests = [], []
        tab.on("pageerror", lambda error: trouble.append(str(error)))
        tab.on("console", lambda message: trouble.append(message.text))
        tab.on("request", lambda request: requests.append(request.url.split(":")[0]))
        tab.goto(page.as_uri())
        assert tab.title().startswith("Perception-R1: Pioneering")
        assert set(requests) <= {"file", "data"}
        first, second = tab.locator("[data-gallery]").nth(0), tab.locator("[data-gallery]").nth(1)
        assert first.locator(".shot:visible").count() == 4
        first.locator("button[value=wrong]").click()
        assert first.locator(".shot:visible").count() == 1
        assert second.locator(".shot:visible").count() == 2  # a gallery's filter is its own
        assert (
            "IoU" in first.locator(".shot:visible .verdict").inner_text()
            or first.locator(".shot:visible .verdict").inner_text()
        )
        first.locator("button[value=all]").click()
        assert first.locator(".shot:visible").count() == 4
        assert tab.locator("tr.ours").count() == 4
        assert trouble == []
        browser.close()


def test_nothing_that_belongs_into_a_table(runs, tmp_path):
    with pytest.raises(UserError, match=r"belongs into the tables of vpr \(their benchmarks: pixmo-count-test"):
        write_paper_report("vpr", [runs])
    with pytest.raises(UserError, match="--paper other: expected pr1 or vpr"):
        write_paper_report("other", [runs])
    with pytest.raises(UserError, match="no such run folder"):
        write_paper_report("pr1", [tmp_path / "none"])
    with pytest.raises(UserError, match=r"ends in \.html"):
        write_paper_report("pr1", [runs], tmp_path / "p.pdf")


def test_results_of_lmms_eval(tmp_path):
    document = {
        "results": {
            "mathvista_testmini_format": {
                "alias": "x",
                "gpt_eval_score,none": 68.1,
                "gpt_eval_score_stderr,none": "N/A",
            },
            "mmmu_val": {"mmmu_acc,none": 0.55, "mmmu_acc_stderr,none": 0.01},
            "mmmu_pro": {"mmmu_acc,none": 0.37},
            "mmmu_pro_standard": {"mmmu_acc,none": 0.4},
            "mmvetv2": {"gpt_eval_score,none": 50.0},
            "seedbench_2_plus": {"seed_all,none": 0.5},
            "llava_in_the_wild_hindi": {"gpt_eval_llava_all,none": 50.0},
            "mmstar": {"average,none": 0.631},
            "mme": {"mme_cognition_score,none": 430.0, "mme_perception_score,none": 1473.9},
            "mathvista_testmini_cot": {"llm_as_judge_eval,none": 0.5},
            "mmstar_ko": {"average,none": 0.1},
            "pr1_refcocog_test": {"acc@0.5,none": 0.25, "mean_iou,none": 0.3},
            "my_own_task": {"acc,none": 1.0},
        },
        "config": {"model": "qwen2_5_vl", "model_args": "pretrained=Qwen/Qwen2.5-VL-7B-Instruct,max_pixels=1"},
        "n-samples": {
            "mmmu_val": {"original": 900, "effective": 900},
            "mmstar": {"original": 1500, "effective": 8},  # --limit 8
        },
    }
    path = tmp_path / "out" / "20260101_results.json"
    path.parent.mkdir()
    path.write_text(json.dumps(document))
    found = {(result.table, result.column): result for result in read_lmms_results(tmp_path)}
    assert found["vpr", "mathvista"].value == 68.1
    assert not found.keys() & {("general", "mmvet"), ("general", "seedbench"), ("general", "llava-bench")}
    assert found["vpr", "mmmu"].n == 900
    assert found["general", "mme/perception"].value == 1473.9
    assert {result.model for result in found.values()} == {"Qwen/Qwen2.5-VL-7B-Instruct"}
    assert found["refcocog", "test@50"].value == 0.25
    table = next(table for table in paper_tables("vpr", [tmp_path]) if table.key == "vpr")
    ours = table.rows[-1].values
    values = [ours[name]["value"] for name in ("mathvista", "mmmu", "mmmu-pro")]
    assert values == pytest.approx([68.1, 55.0, 37.0])
    assert ours["mmmu"]["low"] == pytest.approx(55 - 1.96)
    assert ours["mmstar"]["value"] == pytest.approx(63.1)
    assert table.notes == [
        "Qwen/Qwen2.5-VL-7B-Instruct: mmstar on 8 of 1,500 samples",
        "Qwen/Qwen2.5-VL-7B-Instruct: by lmms-eval, mathvista_testmini_format (mathvista), "
        "mmmu_pro (mmmu-pro), mmmu_val (mmmu), mmstar (mmstar)",
    ]
    path.write_text("{")
    with pytest.raises(DataError, match="is not readable JSON"):
        read_lmms_results(tmp_path)


def test_models_of_one_name_have_rows_of_their_own(tmp_path):
    """runs/A/model and another machine's runs/A/model: their figures are not put into one row."""
    Image.new("RGB", (64, 48), "gray").save(tmp_path / "a.png")
    task = make_task("counting", family="qwen2_vl")
    sample = Sample("1", "counting", "cups", CountTarget(1), str(tmp_path / "a.png"))
    box = "<|box_start|>(0,0),(500,500)<|box_end|>"
    for folder, text, identity in (
        ("a/pixmo-count-val", box, {"path": "/x/A/model", "fingerprint": "1"}),
        ("a/pixmo-count-test", box, {"path": "/x/A/model", "fingerprint": "1"}),
        ("b/pixmo-count-val", "none", {"path": "/y/A/model", "fingerprint": "2"}),
        ("b/pixmo-count-test", "none", {"path": "/y/A/model", "fingerprint": "2"}),
        # saved answers of each split are files of their own, and of one model
        ("c/pixmo-count-val", box, {"responses": "val.json", "fingerprint": "3"}),
        ("c/pixmo-count-test", box, {"responses": "test.json", "fingerprint": "4"}),
    ):
        evaluate(
            task,
            [sample],
            {"1": Completion(text)},
            tmp_path / folder,
            model_name=f"run-{folder[0] == 'c'}",
            identity=identity,
            progress=False,
            resamples=50,
            benchmark=folder.partition("/")[2],
        )
    (table,) = [table for table in paper_tables("pr1", [tmp_path]) if table.has_ours and table.key == "pixmo-count"]
    rows = {row.name: {name: entry["value"] for name, entry in row.values.items()} for row in table.rows if row.ours}
    assert sorted(rows.values(), key=lambda values: values["val"]) == [
        {"val": 0.0, "test": 0.0},
        {"val": 100.0, "test": 100.0},
        {"val": 100.0, "test": 100.0},
    ]
    assert sum(name.startswith("run-False (") for name in rows) == 2 and "run-True" in rows

    page = write_report([tmp_path / "a", tmp_path / "b"], tmp_path / "r.html").read_text()
    assert "/x/A/model (1)" in page and "/y/A/model (2)" in page
