"""Build the wheel from this checkout and run it from a folder of its own: configs and embedded data must be inside."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXPECTED = (
    "diffreid_lightning/configs/default.yaml",
    "diffreid_lightning/configs/recipes/bot_market1501.yaml",
    "diffreid_lightning/py.typed",
)


def main() -> int:
    """Return 0 when the wheel is complete and works, 1 otherwise."""
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        subprocess.run(
            [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", scratch, str(ROOT)],
            check=True,
            stdout=subprocess.DEVNULL,
        )
        wheel = next(folder.glob("*.whl"))
        names = set(zipfile.ZipFile(wheel).namelist())
        sources = {
            path.relative_to(ROOT).as_posix()
            for path in (ROOT / "diffreid_lightning").rglob("*")
            if path.is_file() and "__pycache__" not in path.parts
        }
        configs = {f"diffreid_lightning/{p.relative_to(ROOT).as_posix()}" for p in (ROOT / "configs").rglob("*.yaml")}
        missing = sorted((sources | configs | set(EXPECTED)) - names)
        if missing:
            print(f"missing from {wheel.name}: {missing}")
            return 1
        site = folder / "site"
        install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(site), str(wheel)]
        subprocess.run(install, check=True)
        environment = {**os.environ, "PYTHONPATH": str(site), "WANDB_MODE": "disabled"}
        where = "import diffreid_lightning as d; print(d.__file__)"
        shown = subprocess.run(
            [sys.executable, "-c", where], cwd=folder, env=environment, check=True, capture_output=True, text=True
        )
        if not shown.stdout.strip().startswith(str(site)):
            print(f"the wheel was not what ran: {shown.stdout.strip()}")
            return 1
        smoke = ["fit", "--trainer.max_epochs=1", "--trainer.limit_train_batches=2", "--data.num_workers=0"]
        subprocess.run([sys.executable, "-m", "diffreid_lightning", *smoke], cwd=folder, env=environment, check=True)
        print(f"{wheel.name}: {len(names)} files, {wheel.stat().st_size / 2**20:.1f} MiB, trains from an empty folder")
    return 0


if __name__ == "__main__":
    sys.exit(main())
