from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch

from diffreid_lightning.devices import computes_bfloat16


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/cpuinfo")
def test_a_cpu_computes_bfloat16_if_its_flags_say_so() -> None:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8").split()
    assert computes_bfloat16(torch.device("cpu")) == ("avx512_bf16" in flags)


def test_what_is_not_known_counts_as_without(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not computes_bfloat16(torch.device("meta"))
    monkeypatch.delattr(torch.cpu, "_is_avx512_bf16_supported", raising=False)
    assert not computes_bfloat16(torch.device("cpu"))
