"""Optional packages: what brings one, and what cannot be done without it; for ``pr1 doctor``, errors and checks."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from typing import NamedTuple

DISTRIBUTION = "perception-r1"


class OptionalPackage(NamedTuple):
    """One optional package: the module that it installs, our extra with it (None: not in any), what is lost without."""

    module: str
    extra: str | None
    disables: str


OPTIONAL: Mapping[str, OptionalPackage] = {
    "torch": OptionalPackage("torch", "train", "train, sft, eval of a model, demo"),
    "transformers": OptionalPackage("transformers", "train", "train, sft, eval of a model, demo"),
    "trl": OptionalPackage("trl", "train", "train, sft, demo"),
    "accelerate": OptionalPackage("accelerate", "train", "train, sft, demo"),
    "datasets": OptionalPackage("datasets", "train", "train, sft, demo, Hugging Face data sets"),
    "peft": OptionalPackage("peft", "train", "recipes with a 'lora' table"),
    "scikit-learn": OptionalPackage("sklearn", "train", "the digit scenes: demo and the source 'digits'"),
    "hotcoco": OptionalPackage("hotcoco", "eval", "COCO AP of detection"),
    "nltk": OptionalPackage("nltk", "eval", "BLEU and METEOR of OCR"),
    "jieba": OptionalPackage("jieba", "eval", "OCR metrics of Chinese pages"),
    "aiohttp": OptionalPackage("aiohttp", "eval", "eval through a server, rewards by a judge model"),
    "math-verify": OptionalPackage("math_verify", "judge", "grading of mathematical answers"),
    "matplotlib": OptionalPackage("matplotlib", "report", "the plots of report.html"),
    "jinja2": OptionalPackage("jinja2", "report", "report.html"),
    "vllm": OptionalPackage("vllm", "vllm", "use_vllm in a recipe (rollouts by vLLM)"),
    "deepspeed": OptionalPackage("deepspeed", "deepspeed", "ZeRO (configs/accelerate/zero2.yaml, zero3.yaml)"),
    "bitsandbytes": OptionalPackage(
        "bitsandbytes", "qlora", "QLoRA (configs/recipe/qlora.yaml), 8-bit and paged optimizers"
    ),
}
"""By the name that pip knows."""


def extra_of_module(module: str) -> str | None:
    """Our extra that brings a module; None for one that is not optional."""
    return next((package.extra for package in OPTIONAL.values() if package.module == module), None)


def pip_line(distribution: str) -> str:
    """What to type for a package that is missing.

    Example:
        >>> pip_line("bitsandbytes"), pip_line("wandb")
        ('pip install "perception-r1[qlora]"', 'pip install wandb')
    """
    package = OPTIONAL.get(distribution)
    return f"pip install {distribution}" if package is None else extra_line(package.extra)


def extra_line(extra: str | None) -> str:
    """The same for one of our extras."""
    return f'pip install "{DISTRIBUTION}[{extra}]"' if extra else f'pip install "{DISTRIBUTION}"'


def is_installed(module: str) -> bool:
    """Whether a module can be found; it is not imported."""
    try:
        return find_spec(module) is not None
    except (ValueError, ModuleNotFoundError):  # a module without a spec; a missing parent package
        return False
