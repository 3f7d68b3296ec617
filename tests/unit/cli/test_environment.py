"""The environment that a command is given, and what it adds."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from diffreid_lightning.cli.environment import disable_onnx_telemetry, let_threads_sleep

NAMES = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")


@pytest.mark.parametrize("given", [None, *NAMES])
def test_threads_wait_asleep_unless_the_user_says_how_they_wait(
    given: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    if given is not None:
        monkeypatch.setenv(given, "7")
    let_threads_sleep()
    expected = {"GOMP_SPINCOUNT": "1000"} if given is None else {given: "7"}
    assert {name: os.environ[name] for name in NAMES if name in os.environ} == expected


def test_onnx_runtime_records_nothing_in_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    disable_onnx_telemetry()
    environment = {**os.environ, "HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "cache")}
    subprocess.run([sys.executable, "-c", "import onnxruntime"], check=True, env=environment)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    monkeypatch.setenv("ORT_DISABLE_TELEMETRY", "0")
    disable_onnx_telemetry()
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "0"
