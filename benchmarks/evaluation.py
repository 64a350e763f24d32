"""Speed of evaluation: COCO's figures, edit distance and batched generation, each against the usual way.

CPU time of this process is compared, which other work on the machine does not lengthen.
"""

from __future__ import annotations

import contextlib
import io
import random
import time
from collections.abc import Callable, Iterator
from typing import Any


def seconds(work: Callable[[], Any], runs: int = 3) -> float:
    """Least CPU time of ``work``."""
    best = float("inf")
    for _ in range(runs):
        start = time.process_time()
        work()
        best = min(best, time.process_time() - start)
    return best


def coco(images: int = 5000, boxes: int = 36) -> tuple[float, float, float]:
    """(our seconds, pycocotools' seconds, largest difference of the twelve figures) for ``images`` × ``boxes``."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    from perception_r1.evaluate.coco import NAMES, coco_figures

    draw = random.Random(0)
    truth: dict[str, Any] = {
        "images": [],
        "annotations": [],
        "categories": [{"id": n, "name": str(n)} for n in range(1, 81)],
    }
    results = []
    for image in range(1, images + 1):
        truth["images"].append({"id": image, "width": 640, "height": 480, "file_name": f"{image}.jpg"})
        for _ in range(boxes):
            x, y, w, h = draw.uniform(0, 500), draw.uniform(0, 380), draw.uniform(8, 140), draw.uniform(8, 100)
            label = draw.randint(1, 80)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image,
                    "category_id": label,
                    "bbox": [x, y, w, h],
                    "area": w * h,
                    "iscrowd": 0,
                }
            )
            box = [x + draw.gauss(0, 6), y + draw.gauss(0, 6), w * draw.uniform(0.8, 1.2), h * draw.uniform(0.8, 1.2)]
            results.append({"image_id": image, "category_id": label, "bbox": box, "score": 1.0})
    found: dict[str, Any] = {}

    def ours() -> None:
        found["ours"] = coco_figures(truth, results)[0]

    def reference() -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            gt = COCO()
            gt.dataset = truth
            gt.createIndex()
            evaluator = COCOeval(gt, gt.loadRes([dict(row) for row in results]), "bbox")
            evaluator.evaluate()
            evaluator.accumulate()
            evaluator.summarize()
        found["reference"] = dict(zip(NAMES, evaluator.stats, strict=True))

    fast, slow = seconds(ours, 2), seconds(reference, 1)
    error = max(abs(found["ours"][name] - found["reference"][name]) for name in NAMES)
    return fast, slow, error


def edit_distance(length: int = 1900) -> tuple[float, float]:
    """(our seconds, nltk's) for two pages of ``length`` characters; nltk refuses longer ones."""
    from nltk import edit_distance as reference

    from perception_r1.text import edit_similarity

    draw = random.Random(0)
    page = "".join(draw.choice("abcdefghij klmnop\n") for _ in range(length))
    answer = "".join(draw.choice("xyz") if draw.random() < 0.05 else character for character in page)
    fast = seconds(lambda: [edit_similarity(answer, page) for _ in range(50)]) / 50
    slow = seconds(lambda: reference(answer, page), 1)
    if abs(1 - reference(answer, page) / length - edit_similarity(answer, page)) > 1e-12:
        raise AssertionError("the two edit distances differ")
    return fast, slow


def generation(samples: int = 32, tokens: int = 48) -> tuple[float, float]:
    """Samples a second of the transformers backend, batched and one by one, with a tiny model."""
    import tempfile

    from perception_r1.data.digits import make_scenes
    from perception_r1.data.images import prepare
    from perception_r1.evaluate.generate import TransformersGenerator
    from perception_r1.models.tiny import build_tiny
    from perception_r1.tasks import make_task

    task = make_task("counting", family="qwen3_vl")
    model, processor = build_tiny("qwen3_vl", seed=0)
    with tempfile.TemporaryDirectory() as folder:
        scenes = make_scenes("counting", samples, seed=0, split="heldout", out_dir=folder)
        scenes = [prepare(scene, task.family) for scene in scenes]
        prompts = [task.prompt(scene) for scene in scenes]
        rates = []
        for batch in (samples, 1):
            generator = TransformersGenerator(model, processor, task.family, max_new_tokens=tokens, batch_size=batch)
            generator(scenes[:batch], prompts[:batch])  # warm

            def work(generator: Any = generator, batch: int = batch) -> None:
                for start in range(0, samples, batch):
                    generator(scenes[start : start + batch], prompts[start : start + batch])

            rates.append(samples / seconds(work, 2))
    return rates[0], rates[1]


def measure() -> Iterator[tuple[str, float, str, float | None, str]]:
    """(name, value, unit, promised at least, note) of each figure."""
    fast, slow, error = coco()
    note = f"{fast:.2f} s, pycocotools {slow:.1f} s"
    yield "COCO figures, 5,000 images × 36 boxes, speed-up", slow / fast, "×", 20.0, note
    same = 12.0 if error < 1e-9 else 0.0
    yield "… of 12 equal to pycocotools to 1e-9", same, "", 12.0, f"largest difference {error:.1e}"
    fast, slow = edit_distance()
    note = f"{1e3 * fast:.2f} ms, nltk {slow:.1f} s"
    yield "edit distance, 1,900 characters, speed-up", slow / fast, "×", 100.0, note
    batched, alone = generation()
    note = f"{batched:.1f} samples/s, one by one {alone:.1f}"
    yield "generation, batch of 32, speed-up", batched / alone, "×", 3.0, note


if __name__ == "__main__":
    for figure in measure():
        print(*figure)
