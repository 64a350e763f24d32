"""The shape of a model: its parameters by what they do, counted on the model itself without its weights."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from importlib.resources import files
from typing import Any

from perception_r1.errors import ModelError


@dataclass(frozen=True)
class Shape:
    """What a step's work and memory follow from.

    ``*_linear`` are weights of linear maps (two operations each for every token or patch); ``tower`` counts those that
    see every patch, ``merger`` those that see a merged cell of patches. ``experts`` are weights of which a token uses
    the share ``active``.
    """

    parameters: int
    tower_parameters: int
    language_linear: int
    experts: int
    active: float
    tower_linear: int
    merger_linear: int
    head_linear: int
    layers: int
    hidden: int
    intermediate: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tower_layers: int
    tower_hidden: int
    tower_intermediate: int
    tower_full_layers: int
    tower_window: int
    patches_per_token: int

    @property
    def largest_layer(self) -> int:
        """Parameters of a language layer: what FSDP and ZeRO-3 gather at once."""
        return (self.language_linear + self.experts) // max(1, self.layers)


def shape_of(model: str | Any) -> Shape:
    """The shape of a model by its folder, hub id or configuration; well-known ids need no file and no network.

    Raises:
        ModelError: no configuration can be had.
    """
    if isinstance(model, str):
        if model in known_models():
            return known_models()[model]
        from transformers import AutoConfig

        from perception_r1.models.load import check_model_path

        check_model_path(model)
        try:
            model = AutoConfig.from_pretrained(model)
        except (OSError, ValueError, KeyError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            known = ", ".join(known_models())
            raise ModelError(f"{model}: no configuration to plan with ({first}); known without one: {known}") from None
    return _counted(model)


def known_models() -> dict[str, Shape]:
    """Shapes of the published models that recipes name, counted once and kept."""
    text = (files("perception_r1") / "assets" / "models" / "shapes.json").read_text(encoding="utf-8")
    names = [field.name for field in fields(Shape)]
    return {name: Shape(**dict(zip(names, values, strict=True))) for name, values in json.loads(text).items()}


def known_type(model: str) -> str:
    """``model_type`` of a published model of `known_models`."""
    text = (files("perception_r1") / "assets" / "models" / "configs.json").read_text(encoding="utf-8")
    return str(json.loads(text)[model]["model_type"])


def _counted(config: Any) -> Shape:
    """Count on a model without storage (torch's meta device)."""
    import torch
    from transformers import AutoModelForImageTextToText

    with torch.device("meta"):
        model = AutoModelForImageTextToText.from_config(config)
    text, vision = config.get_text_config(), config.vision_config
    tower = getattr(model.model, "visual", None)
    tower = tower if tower is not None else model.model.vision_tower
    sums = dict.fromkeys(("language", "tower", "merger", "head"), 0)
    in_tower = {id(module) for module in tower.modules()}
    for name, module in model.named_modules():
        if not isinstance(module, (torch.nn.Linear, torch.nn.Conv2d, torch.nn.Conv3d)):
            continue
        where = "language"
        if "merger" in name or "projector" in name:
            where = "merger"
        elif id(module) in in_tower:
            where = "tower"
        elif name.endswith("lm_head"):
            where = "head"
        sums[where] += module.weight.numel()
    experts = sum(p.numel() for name, p in model.named_parameters() if ".experts." in name and p.ndim == 3)
    n_experts = getattr(text, "num_experts", None) or 1
    heads = text.num_attention_heads
    merge = getattr(vision, "spatial_merge_size", None)
    per_token = merge**2 if merge else round(1 / getattr(config, "downsample_ratio", 0.5) ** 2)
    depth = getattr(vision, "depth", None) or vision.num_hidden_layers
    full = getattr(vision, "fullatt_block_indexes", None)
    window = (vision.window_size // vision.patch_size) ** 2 if full is not None else 0
    width = getattr(vision, "embed_dim", None) or vision.hidden_size
    inner = getattr(vision, "intermediate_size", None) or int(width * vision.mlp_ratio)
    return Shape(
        parameters=sum(p.numel() for p in model.parameters()),
        tower_parameters=sum(p.numel() for p in tower.parameters()),
        language_linear=sums["language"],
        experts=experts,
        active=getattr(text, "num_experts_per_tok", 1) / n_experts,
        tower_linear=sums["tower"],
        merger_linear=sums["merger"],
        head_linear=sums["head"],
        layers=text.num_hidden_layers,
        hidden=text.hidden_size,
        intermediate=text.intermediate_size,
        heads=heads,
        kv_heads=text.num_key_value_heads,
        head_dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocabulary=text.vocab_size,
        tower_layers=depth,
        tower_hidden=width,
        tower_intermediate=inner,
        tower_full_layers=depth if full is None else len(full),
        tower_window=window,
        patches_per_token=per_token,
    )
