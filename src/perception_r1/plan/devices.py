"""Accelerators: memory, matrix rate and bandwidth from the makers' data sheets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Device:
    """One accelerator.

    Attributes:
        memory: bytes that a program can use.
        rate: dense bf16 operations a second.
        bandwidth: bytes a second to its memory.
        link: bytes a second to its neighbours in the machine, one direction.
    """

    name: str
    memory: float
    rate: float
    bandwidth: float
    link: float


_GB = 2.0**30

DEVICES: dict[str, Device] = {
    device.name: device
    for device in (
        Device("h200", 139 * _GB, 989e12, 4.8e12, 450e9),
        Device("h100", 79 * _GB, 989e12, 3.35e12, 450e9),
        Device("a100-80g", 79 * _GB, 312e12, 2.0e12, 300e9),
        Device("a100-40g", 39 * _GB, 312e12, 1.55e12, 300e9),
        Device("l40s", 44 * _GB, 362e12, 0.86e12, 25e9),
        Device("rtx6000-ada", 47 * _GB, 364e12, 0.96e12, 25e9),
        Device("rtx4090", 23.5 * _GB, 165e12, 1.0e12, 25e9),
        Device("rtx3090", 23.5 * _GB, 71e12, 0.94e12, 25e9),
    )
}
