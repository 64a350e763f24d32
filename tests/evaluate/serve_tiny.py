"""``transformers serve`` where torchvision is not installed: the processors of our families without their video part.

python serve_tiny.py MODEL_DIR --port N
"""

from __future__ import annotations

import importlib
import sys

from perception_r1.models.processors import image_only


def main() -> None:
    for module, name in (
        ("qwen3_vl", "Qwen3VLProcessor"),
        ("qwen2_vl", "Qwen2VLProcessor"),
        ("qwen2_5_vl", "Qwen2_5_VLProcessor"),
    ):
        package = importlib.import_module(f"transformers.models.{module}")
        setattr(package, name, image_only(getattr(package, name)))
    from transformers.cli.serve import Serve

    model, _, port = sys.argv[1:4]
    Serve(force_model=model, device="cpu", dtype="float32", host="127.0.0.1", port=int(port))


if __name__ == "__main__":
    main()
