"""The completion script, in a real shell."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from diffreid_lightning.cli import main

ASK = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
_shtab_diffreid
echo "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("shell") / "diffreid"
    with pytest.MonkeyPatch.context() as patch, file.open("w") as output:
        patch.setattr("sys.stdout", output)
        assert main(["completion", "bash"]) == 0
    return file


@pytest.mark.skipif(shutil.which("bash") is None, reason="there is no bash")
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["swe"], ["sweep"]),
        (["fit", "--model.backb"], ["--model.backbone"]),
        (["fit", "--data.sampler.images"], ["--data.sampler.images_per_identity"]),
        (["test", "--trainer.max_e"], ["--trainer.max_epochs"]),
        (["fit", "--config", "recipes/bot_"], ["recipes/bot_market1501"]),
    ],
)
def test_words_are_completed(script: Path, words: list[str], expected: list[str]) -> None:
    command = ["bash", "-c", ASK, "bash", str(script), "diffreid", *words]
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    assert found.stdout.split() == expected


def test_an_unknown_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "powershell"]) == 2
    assert "bash" in capsys.readouterr().err
