"""Choose the device for work outside a trainer, and ask what a device computes natively."""

from __future__ import annotations

import torch


def fastest_device() -> torch.device:
    """Return the current GPU, or the CPU where there is none."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def computes_bfloat16(device: torch.device) -> bool:
    """Return true if a device has instructions for products in bfloat16, and does not emulate them.

    CPUs without AVX-512 BF16 and devices that are neither CPU nor CUDA GPU count as without.
    """
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    # Not documented: torch.cpu.get_capabilities is, but the oldest torch that is supported lacks it.
    known = getattr(torch.cpu, "_is_avx512_bf16_supported", None)
    return device.type == "cpu" and known is not None and bool(known())
