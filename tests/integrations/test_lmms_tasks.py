"""Our benchmarks as lmms-eval tasks: the folder that is written, and what its functions return."""

from __future__ import annotations

import importlib.util
import json

import pytest
import yaml
from PIL import Image

from perception_r1.errors import RecipeError
from perception_r1.evaluate.benchmarks import BENCHMARKS
from perception_r1.evaluate.run import score_metrics
from perception_r1.integrations.lmms_eval.tasks import write_tasks
from perception_r1.tasks.grounding import GroundingTask
from perception_r1.types import BoxTarget, Sample


class _Loader(yaml.SafeLoader):
    """As lmms-eval reads its files: ``!function utils.name``."""


_Loader.add_constructor("!function", lambda loader, node: loader.construct_scalar(node))


@pytest.fixture
def written(tmp_path):
    samples = []
    for number in range(3):
        path = tmp_path / f"{number}.png"
        Image.new("RGB", (640, 480)).save(path)
        target = BoxTarget(((64.0, 48.0, 320.0, 240.0),))
        samples.append(Sample(str(number), "grounding", "cup", target, str(path), (640, 480)))
    name = write_tasks(
        BENCHMARKS["refcoco+-testA"], samples, tmp_path / "tasks", family="qwen2_5_vl", max_pixels=200_000
    )
    folder = tmp_path / "tasks" / name
    spec = importlib.util.spec_from_file_location("utils_of_a_task", folder / "utils.py")
    utils = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(utils)
    docs = [json.loads(line) for line in (folder / "data.jsonl").read_text().splitlines()]
    return name, folder, utils, docs


def test_yaml_names_what_utils_has(written):
    name, folder, utils, docs = written
    assert name == "pr1_refcocoplus_testa"
    config = yaml.load((folder / f"{name}.yaml").read_text(), Loader=_Loader)
    assert config["task"] == name
    assert config["dataset_kwargs"]["data_files"]["test"] == str(folder / "data.jsonl")
    assert [entry["metric"] for entry in config["metric_list"]] == list(GroundingTask.headline)
    functions = [config[key] for key in ("doc_to_visual", "doc_to_text", "process_results")]
    functions += [entry["aggregation"] for entry in config["metric_list"]]
    for function in functions:
        assert callable(getattr(utils, function.removeprefix("utils.")))
    assert len(docs) == 3


def test_the_picture_has_the_size_that_answers_are_read_in(written):
    _, _, utils, docs = written
    (image,) = utils.doc_to_visual(docs[0])
    assert image.size == (504, 364)  # of at most 200,000 pixels, multiples of 28
    assert utils.doc_to_text(docs[0]).startswith("Output the bounding box of the cup in the image.")


def test_figures_are_those_of_pr1_eval(written):
    _, _, utils, docs = written
    # 640 × 480 → 504 × 364: a box in pixels of the resized image
    right = '[{"bbox_2d": [50, 36, 252, 182], "label": "cup"}]'
    answers = [right, "nothing", right]
    results = [utils.process_results(doc, [answer]) for doc, answer in zip(docs, answers, strict=True)]
    assert utils.acc_0_5([result["acc@0.5"] for result in results]) == pytest.approx(2 / 3)
    task = utils.TASK
    scored = [
        (task.sample(doc), task.scorer.score(task.sample(doc), text)) for doc, text in zip(docs, answers, strict=True)
    ]
    expected = score_metrics("grounding", scored, resamples=10)["metrics"]
    for metric in GroundingTask.headline:
        value = task.aggregate(metric, [result[metric] for result in results])
        assert value == pytest.approx(expected[metric]["value"])


def test_an_unknown_family(tmp_path):
    with pytest.raises(RecipeError, match="unknown family"):
        write_tasks(BENCHMARKS["coco2017"], [], tmp_path, family="none")
