"""What this installation can do: versions, devices, memory, optional parts, and the pip line for what is missing.

Reads package metadata rather than importing packages, torch excepted (its devices are the question), so it takes about
two seconds. Nothing here is needed to train: it explains why something does not.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from perception_r1.packages import DISTRIBUTION, OPTIONAL, extra_line

TRAIN_EXTRA = "train"


@dataclass(frozen=True, slots=True)
class Package:
    """One package: what is installed, what is asked for, what is lost without it and the line that brings it."""

    name: str
    extra: str
    installed: str | None
    required: str = ""
    ok: bool = True
    disables: str = ""
    fix: str = ""


@dataclass(frozen=True, slots=True)
class Device:
    """A torch device; ``memory_gib`` None where torch does not say."""

    name: str
    kind: str
    memory_gib: float | None = None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """Everything ``pr1 doctor`` says. ``ok``: the training extra works."""

    python: str
    platform: str
    version: str
    packages: tuple[Package, ...]
    devices: tuple[Device, ...]
    cores: int
    memory_gib: float | None
    memory_free_gib: float | None
    disk_free_gib: float
    torchvision: str
    chromium: str | None
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default=())

    @property
    def ok(self) -> bool:
        """Whether everything that is required is there."""
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """A plain, JSON-serialisable form."""
        return {"ok": self.ok, **asdict(self)}


def examine(*, deep: bool = False) -> Diagnosis:
    """Look at the installation; ``deep`` also imports what training imports instead of trusting metadata."""
    packages = _packages()
    problems = [
        f"{p.name} {p.installed or 'is missing'}{f', {p.required} is needed' if p.installed else ''}: {p.fix}"
        for p in packages
        if not p.ok and p.extra in ("", TRAIN_EXTRA)
    ]
    notes: list[str] = []
    devices, torch_error = _devices() if _version("torch") else ((), None)
    if torch_error:
        problems.append(f"torch does not import ({torch_error}): reinstall it with pip install --force-reinstall torch")
    torchvision = _torchvision()
    if torchvision.startswith("broken"):
        problems.append(f"torchvision is {torchvision}, and transformers fails with it: pip uninstall torchvision")
    if deep and not problems:
        problems += _deep()
    if devices and not any(d.kind in ("cuda", "xpu", "mps") for d in devices):
        notes.append("no accelerator: the demo and the tests run, models of a billion parameters do not train here")
    return Diagnosis(
        python=platform.python_version(),
        platform=platform.platform(),
        version=_version(DISTRIBUTION) or "not installed",
        packages=packages,
        devices=devices,
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        memory_gib=_memory("MemTotal"),
        memory_free_gib=_memory("MemAvailable"),
        disk_free_gib=round(shutil.disk_usage(Path.cwd()).free / 2**30, 1),
        torchvision=torchvision,
        chromium=next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None),
        problems=tuple(problems),
        notes=tuple(notes),
    )


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _packages() -> tuple[Package, ...]:
    """The packages that our own metadata asks for, the development tools excepted."""
    found: dict[str, Package] = {}  # one of two extras is listed under the first
    for line in metadata.requires(DISTRIBUTION) or ():
        spec, _, marker = line.partition(";")
        extra = marker.split("==")[-1].strip().strip("\"'") if "extra" in marker else ""
        if extra == "dev":
            continue
        name = spec.split(">")[0].split("=")[0].split("<")[0].split("[")[0].strip()
        found.setdefault(name, _package(name, extra, spec[len(name) :].strip()))
    return tuple(found.values())


def _package(name: str, extra: str, required: str) -> Package:
    installed = _version(name)
    ok = installed is not None and _satisfies(installed, required)
    known = OPTIONAL.get(name.lower())
    return Package(
        name=name,
        extra=extra,
        installed=installed,
        required=required,
        ok=ok,
        disables=known.disables if known else "everything" if not extra else "",
        fix="" if ok else extra_line(extra),
    )


def _satisfies(version: str, required: str) -> bool:
    """Only lower bounds are declared; a release is compared number by number (``2.13.0+cpu`` ≥ ``2.6``)."""
    bound = required.removeprefix(">=")
    return not bound or _numbers(version) >= _numbers(bound)


def _numbers(version: str) -> tuple[int, ...]:
    parts = []
    for part in version.split("+")[0].split("."):
        digits = "".join(ch for ch in part if ch.isdigit())
        if not part[:1].isdigit():
            break
        parts.append(int(digits))
    return tuple(parts)


def _devices() -> tuple[tuple[Device, ...], str | None]:
    try:
        import torch
    except (ImportError, OSError) as error:  # a broken build fails with either
        return (), str(error).splitlines()[0]
    devices = [Device(f"CPU, {torch.get_num_threads()} threads", "cpu")]
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        devices.append(Device(properties.name, "cuda", round(properties.total_memory / 2**30, 1)))
    if torch.backends.mps.is_available():
        devices.append(Device("Apple GPU", "mps"))
    return tuple(devices), None


def _torchvision() -> str:
    """Whether torchvision imports beside this torch: in a process of its own, since a failed import leaves traces."""
    version = _version("torchvision")
    if version is None:
        return "absent (fine: image processors that need only PIL are used)"
    done = subprocess.run([sys.executable, "-c", "import torchvision"], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return f"{version} works"
    lines = done.stderr.strip().splitlines()
    return f"broken: {version}, {lines[-1] if lines else 'import fails'}"


def _deep() -> list[str]:
    code = (
        "from trl import GRPOConfig, GRPOTrainer, SFTTrainer; from transformers import Qwen3VLForConditionalGeneration"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if done.returncode == 0:
        return []
    lines = done.stderr.strip().splitlines() or ["unknown error"]
    return [f"the trainers do not import ({lines[-1]}): {extra_line(TRAIN_EXTRA)} --upgrade"]


def _memory(key: str) -> float | None:
    """GiB by /proc/meminfo (Linux), at most what the container may use; None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    table = dict(line.split(":", 1) for line in lines)
    gib = int(table[key].split()[0]) / 2**20
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
        if limit != "max":
            gib = min(gib, (int(limit) - (used if key == "MemAvailable" else 0)) / 2**30)
    except (OSError, ValueError):
        pass
    return round(gib, 1)
