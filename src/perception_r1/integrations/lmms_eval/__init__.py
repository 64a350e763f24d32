"""lmms-eval: our model adapter (an entry point of ``lmms_eval.models``) and our benchmarks as its tasks.

lmms-eval lives in an environment of its own (``make bench-general``); nothing here imports it but ``model``.
"""

from __future__ import annotations

from typing import Any


def manifest() -> Any:
    """What the entry point gives lmms-eval: ``--model perception_r1``."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest(
        model_id="perception_r1", simple_class_path="perception_r1.integrations.lmms_eval.model.PerceptionR1"
    )
