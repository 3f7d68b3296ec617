"""Check that a chain that is killed again and again ends with the outputs of an undisturbed one.

    python -m benchmarks.killed_chain [--kills 10] [--config chains/tour --config chains/quick]

runs `pipeline` once undisturbed, then in another folder with ``kill -9`` to its process at random moments, each time
followed at once by the same command, and at last to its end. Both folders are compared: the contents and ancestors of
every manifest, the bytes of every generated image, every tensor of the personalized model, the scorer and the
backbones, and of the checkpoints the tensors, the states of optimizers and schedulers, and the numbers of epochs and
steps. On the CPU all must be the same. The other parts of a checkpoint hold paths, times and how often a run was
resumed. One more start must find nothing to do.
"""

from __future__ import annotations

import argparse
import hashlib
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.manifest.manifest import FILE_NAME, Manifest
from experiments.instruments.report import write_json
from experiments.instruments.script import run_script

_NOTE = "killed_chain.json"
_STATE = ("state_dict", "optimizer_states", "lr_schedulers", "epoch", "global_step")


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Return the leaves of nested mappings and lists by their paths."""
    if isinstance(value, Mapping):
        parts = list(value.items())
    elif isinstance(value, (list, tuple)):
        parts = list(enumerate(value))
    else:
        return {name: value}
    return {path: leaf for key, part in parts for path, leaf in flatten(part, f"{name}/{key}").items()}


def values_hash(values: Mapping[str, Any]) -> str:
    """Hash names, types, shapes and values of tensors, and other values as they are written."""
    digest = hashlib.sha256()
    for name in sorted(values):
        if not isinstance(values[name], Tensor):
            digest.update(f"{name} {values[name]!r}".encode())
            continue
        tensor = values[name].detach().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def contents(root: Path) -> dict[str, str]:
    """Hash what a chain made, by path below its folder: manifests, generated images, weights and checkpoints.

    What only tells of the run is left out: logs, times, W&B records, paths in provenance, caches, and what was put
    aside of a start that did not come to its first checkpoint.
    """
    found = {}
    for file in sorted(root.rglob("*")):
        name = file.relative_to(root).as_posix()
        if name.startswith(("cache/", "previous/", ".")) or "/wandb/" in name:
            continue
        if file.name == FILE_NAME:
            manifest = Manifest.read(file.parent)
            found[name] = " ".join((manifest.content_hash, *manifest.parents))
        elif file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                found[name] = values_hash({key: opened.get_tensor(key) for key in opened.keys()})  # noqa: SIM118
        elif file.suffix == ".ckpt":
            saved = torch.load(file, weights_only=True, map_location="cpu")
            found[name] = values_hash(flatten({key: saved[key] for key in _STATE if key in saved}))
        elif "images" in file.parts and file.suffix == ".jpg":
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
    return found


def differences(one: dict[str, str], other: dict[str, str]) -> list[str]:
    """Name what is not the same in both, or in one alone."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def command(root: Path, configs: Sequence[str]) -> list[str]:
    """The chain's command line, into a folder."""
    layers = [word for name in configs for word in ("--config", name)]
    return [sys.executable, "-m", "diffreid_lightning", "pipeline", *layers, "--root", str(root)]


def run_to_the_end(root: Path, configs: Sequence[str], log: Path) -> float:
    """Run the chain and return its seconds.

    Raises:
        RunError: it failed.
    """
    started = time.perf_counter()
    with log.open("ab") as handle:
        ended = subprocess.run(command(root, configs), stdout=handle, stderr=handle, check=False)
    if ended.returncode:
        raise RunError("The chain failed.", found=f"exit code {ended.returncode}", remedy=f"read {log}")
    return time.perf_counter() - started


def kill_after(seconds: float, root: Path, configs: Sequence[str], log: Path) -> bool:
    """Start the chain and kill its process after some seconds (its stage ends with it); return whether it still ran.

    Raises:
        RunError: it ended by itself, and failed.
    """
    with log.open("ab") as handle:
        process = subprocess.Popen(command(root, configs), stdout=handle, stderr=handle)
        try:
            code = process.wait(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            return True
    if code:
        raise RunError("The chain failed after a kill.", found=f"exit code {code}", remedy=f"read {log}")
    return False


def _run(given: argparse.Namespace) -> None:
    work, configs = given.work.resolve(), given.config or ["chains/tour", "chains/quick"]
    if any((work / name).exists() for name in ("whole", "killed")):
        raise UserError(f"{work} holds an earlier run.", remedy="remove it, or give another --work")
    work.mkdir(parents=True, exist_ok=True)
    whole = run_to_the_end(work / "whole", configs, work / "whole.log")
    print(f"undisturbed: {whole:.0f} s", flush=True)
    # Every start costs its imports and the work since the last checkpoint; with these moments the kills reach the end.
    moments = np.random.default_rng(given.seed).uniform(0, 4 * whole / given.kills, given.kills)
    kills = []
    for number, moment in enumerate(moments.tolist(), start=1):
        if kill_after(moment, work / "killed", configs, work / "killed.log"):
            kills.append(moment)
        stages = sorted(path.stem for path in (work / "killed/.stages").glob("*.json") if "." not in path.stem)
        print(f"kill {number} after {moment:.1f} s; finished so far: {', '.join(stages) or 'nothing'}", flush=True)
    rest = run_to_the_end(work / "killed", configs, work / "killed.log")
    again = run_to_the_end(work / "killed", configs, work / "killed.log")
    one, other = contents(work / "whole"), contents(work / "killed")
    differing = differences(one, other)
    print(f"{len(kills)} kills, then {rest:.0f} s to the end; once more, with nothing to do: {again:.1f} s")
    print(f"{len(one)} manifests, images, weights and checkpoints compared: {len(differing)} differ")
    for name in differing[:20]:
        print(f"  {name}")
    write_json(work / _NOTE, {"seconds": whole, "kills": kills, "rest": rest, "again": again, "differing": differing})
    if differing:
        raise RunError("A killed chain ends in something else.", found=", ".join(differing[:5]))


def main(args: list[str] | None = None) -> int:
    """Run, kill, compare."""
    parser = argparse.ArgumentParser(description="Kill the chain at random moments and compare what it ends in.")
    parser.add_argument("--kills", type=int, default=10, help="how often it is killed")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--config", action="append", help="of the chain; chains/tour under chains/quick by default")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks/killed"), help="folder for both chains")
    parser.add_argument("--threads", type=int, default=1, help="of the comparison")
    return run_script(_run, parser.parse_args(args))


if __name__ == "__main__":
    sys.exit(main())
