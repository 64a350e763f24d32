"""A batch without an image in one process must not stop the others.

Where the vision tower is trained or sharded, every use of it is a meeting of all processes: weights are gathered,
gradients reduced. A process whose batch has no image never comes, and the others wait for ever. `enable` makes such a
process encode one tiny blank picture and add zero times the result, so it takes part and changes nothing.
"""

from __future__ import annotations

from typing import Any

from perception_r1.shared_prefix import BACKBONES


def enable(model: Any) -> Any:
    """Let every forward over prompts use the vision tower; returns handles whose ``remove`` undoes it.

    Steps of decoding (one token at a time) are left alone: no process has images there.
    """
    known = (module for module in model.modules() if any(kind.__name__ in BACKBONES for kind in type(module).__mro__))
    backbone = next(known, None)
    if backbone is None:
        return ()
    blank: list[Any] = []

    def before(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        blank.clear()
        given = [kwargs.get(name) for name in ("input_ids", "inputs_embeds")]
        tokens = next((tensor for tensor in given if tensor is not None), None)
        # `generate` encodes images ahead (and hands over an empty table where there are none).
        no_image = kwargs.get("pixel_values") is None and not kwargs.get("mm_encoder_outputs")
        if no_image and tokens is not None and tokens.shape[1] > 1:
            blank.append(_blank_features(module, tokens.device))

    def after(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        if blank:
            output.last_hidden_state = output.last_hidden_state + 0.0 * blank.pop().to(output.last_hidden_state.dtype)
        return output

    return (
        backbone.register_forward_pre_hook(before, with_kwargs=True),
        backbone.register_forward_hook(after, with_kwargs=True),
    )


def _blank_features(backbone: Any, device: Any) -> Any:
    """The sum of all that the tower gives for the smallest blank picture, as a scalar that carries its gradient."""
    import torch

    vision = backbone.config.vision_config
    dtype = next(backbone.parameters()).dtype
    if hasattr(vision, "spatial_merge_size"):  # Qwen-VL: patches in a row, one merged cell of them
        merge = vision.spatial_merge_size
        channels = getattr(vision, "in_channels", None) or vision.in_chans
        values = channels * vision.temporal_patch_size * vision.patch_size**2
        pixels = torch.zeros(merge * merge, values, device=device, dtype=dtype)
        found = backbone.get_image_features(pixels, torch.tensor([[1, merge, merge]], device=device))
    else:  # InternVL: a whole tile
        height, width = vision.image_size
        found = backbone.get_image_features(torch.zeros(1, 3, height, width, device=device, dtype=dtype))
    return sum(tensor.float().sum() for tensor in _tensors(found) if tensor.is_floating_point())


def _tensors(found: Any) -> list[Any]:
    import torch

    if isinstance(found, torch.Tensor):
        return [found]
    if isinstance(found, dict):  # an output of transformers
        found = [found.get(name) for name in ("pooler_output", "deepstack_features")]
    return [tensor for item in found or () if item is not None for tensor in _tensors(item)]
