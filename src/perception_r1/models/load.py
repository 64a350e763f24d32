"""Loading a vision-language model with its processor, from a folder or a hub id, with errors a person can act on."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from perception_r1.errors import ModelError
from perception_r1.families import Family, family_of_model_type
from perception_r1.models.files import check_files
from perception_r1.models.hub import check_hub_model

if TYPE_CHECKING:
    from transformers import PreTrainedModel, ProcessorMixin


def load_model(
    path_or_id: str | Path, *, dtype: str = "auto", device: str | None = None, **model_kwargs: Any
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """The model and its processor.

    Args:
        path_or_id: a folder made by ``save_pretrained``, or an id on the Hugging Face hub.
        dtype: "auto" (as saved), "float32", "bfloat16", "float16".
        device: where to put the model; None leaves it on the CPU (trainers place it themselves).
        model_kwargs: passed on to ``from_pretrained`` (``attn_implementation``, ``revision``, …).

    Raises:
        ModelError: the folder does not contain a model, the id cannot be loaded, or the weights do not fit the config.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForImageTextToText

    from perception_r1.models.processors import HUB_OPTIONS, load_processor

    hub = {key: value for key, value in model_kwargs.items() if key in HUB_OPTIONS}
    # With a cache, revision or token of one's own the default cache tells nothing.
    (check_model_path if hub else check_available)(path_or_id)
    processor = load_processor(str(path_or_id), **hub)  # of the same revision; its faults show before weights are read
    try:
        model, report = AutoModelForImageTextToText.from_pretrained(
            str(path_or_id), dtype=dtype, output_loading_info=True, **model_kwargs
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ModelError(f"{path_or_id}: cannot be loaded as a vision-language model: {_first_line(error)}") from None
    if missing := sorted(report["missing_keys"]):
        raise ModelError(
            f"{path_or_id}: the weights lack {len(missing)} tensors that config.json asks for (such as {missing[0]}); "
            "transformers would start them at random"
        )
    if device is not None:
        model = model.to(device)
    return model, processor


def check_available(path_or_id: str | Path) -> None:
    """`check_model_path`, and an id that the hub does not have, or that cannot be asked for, is refused too.

    Raises:
        ModelError: what is missing and how to get it.
    """
    check_model_path(path_or_id)
    if not Path(path_or_id).exists():
        check_hub_model(str(path_or_id))


def check_model_path(path_or_id: str | Path) -> None:
    """Refuse a folder that holds no complete model, before anything slow happens.

    Raises:
        ModelError: says what is missing and how to get it.
    """
    path = Path(path_or_id)
    if not path.exists():
        if path.is_absolute() or str(path_or_id).count("/") != 1 or str(path_or_id).startswith("."):
            raise ModelError(f"{path_or_id}: no such model folder (expected a folder with config.json, or a hub id)")
        return
    if not path.is_dir():
        raise ModelError(f"{path}: is a file (expected the folder that holds config.json and the weights)")
    if (path / "config.json").is_file():
        check_files(path)
        return
    if (path / "adapter_config.json").is_file():
        raise ModelError(f"{path}: holds a LoRA adapter only; merge it first (PeftModel.merge_and_unload, then save)")
    if (path / "pytorch_model_fsdp_0").is_dir() or list(path.glob("*.distcp")):
        raise ModelError(f"{path}: is a sharded FSDP checkpoint; merge it first: accelerate merge-weights {path} OUT")
    if list(path.glob("global_step*")):
        raise ModelError(f"{path}: is a DeepSpeed checkpoint; merge it first: python {path}/zero_to_fp32.py {path} OUT")
    raise ModelError(f"{path}: has no config.json (expected a folder made by save_pretrained)")


def model_type(path_or_id: str | Path) -> str:
    """``model_type`` of the model's configuration.

    Raises:
        ModelError: no configuration can be read.
    """
    from transformers import AutoConfig

    check_available(path_or_id)
    try:
        return str(AutoConfig.from_pretrained(str(path_or_id)).model_type)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(
            f"{path_or_id}: configuration cannot be read: {_first_line(error).rstrip('.')} (download it into a folder, "
            "or name its family: 'family: qwen2_5_vl' in the recipe, or --family where the command has it)"
        ) from None


def detect_family(path_or_id: str | Path) -> Family:
    """The family (coordinate frame, answer form) that the model's configuration belongs to."""
    return family_of_model_type(model_type(path_or_id))


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
