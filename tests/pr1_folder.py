"""PR1's own ``eval`` folder in small, as its readme draws it: every benchmark with a sample or two."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

CATEGORIES = [{"id": 1, "name": "person"}, {"id": 18, "name": "dog"}]
GROUNDING = [f"{name}_{split}" for name in ("refcoco", "refcocop") for split in ("val", "testA", "testB")]
GROUNDING += ["refcocog_val", "refcocog_test"]


def write_pr1_folder(root: Path) -> Path:
    """Write ``jsons/`` and ``images/`` below ``root``."""

    def image(name: str) -> None:
        path = root / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48), "white").save(path)

    def write(name: str, value: Any) -> None:
        path = root / "jsons" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        lines = "\n".join(map(json.dumps, value)) if name.endswith(".jsonl") else json.dumps(value)
        path.write_text(lines)

    record = {
        "image": "train2014/COCO_train2014_000000000007.jpg",
        "problem": "left dog",
        "solution": [4, 6, 24, 16],
        "normalized_solution": [62, 125, 375, 333],
    }
    image("coco/train2014/COCO_train2014_000000000007.jpg")
    for name in GROUNDING:
        write(f"grounding/{name}.json", [record])
    image("pixmo-count/a.png")
    row = {"question": "dogs", "ground_truth": 3, "image_path": "pixmo-count/a.png"}
    write("counting/pixmo_count_validation540_counting_problems_label.jsonl", [row])
    write("counting/pixmo_count_test540_counting_problems_label.jsonl", [row, row])
    for short, text in (("en", "some words"), ("cn", "一 二")):
        image(f"ocr/{short}_pdf_png/p1.png")
        turns = [{"from": "human", "value": "<image>\nOCR this image."}, {"from": "gpt", "value": text}]
        write(f"ocr/{short}_page_ocr.json", [{"image": "p1.png", "conversations": turns}])
    # Its annotation file is about resized copies: 56 × 56 of an image that is 64 × 48.
    image("coco/val2017/000000000009.jpg")
    image("coco/val2017/000000000025.jpg")
    write(
        "detection/coco_val2017.json",
        {
            "images": [
                {"id": 9, "file_name": "000000000009.jpg", "width": 56, "height": 56},
                {"id": 25, "file_name": "000000000025.jpg", "width": 64, "height": 48},
            ],
            "annotations": [
                {"id": 1, "image_id": 9, "category_id": 18, "bbox": [7, 14, 28, 28], "area": 784, "iscrowd": 0},
                {"id": 2, "image_id": 25, "category_id": 1, "bbox": [1, 1, 9, 9], "area": 81, "iscrowd": 1},
            ],
            "categories": CATEGORIES,
        },
    )
    return root
