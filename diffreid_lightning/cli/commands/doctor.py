"""Run ``doctor``: check the installation and the machine, for a bug report or a first look."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from diffreid_lightning.cli.commands.parser import CommandParser
from diffreid_lightning.cores import usable_cores
from diffreid_lightning.errors import UserError, first_line

_USAGE = "python -m diffreid_lightning doctor"
_PACKAGE = __package__.partition(".")[0]
_CHAIN = "python -m diffreid_lightning pipeline"
_LEAST_ROOM = 1 << 30  # bytes that the runs of the default chain take

OK, ABSENT, BROKEN = "ok", "absent", "broken"  #: broken: the default chain cannot run like this
Finding = tuple[str, str, str]  #: one of these, name, and state in words


def doctor_command(words: Sequence[str]) -> int:
    """Run ``doctor``: print versions, devices, resources, W&B's state, the embedded files and the extras.

    Returns:
        0; 1 if something that the default chain needs is broken.

    Raises:
        UserError: there are options.
    """
    CommandParser(_USAGE, doctor_command.__doc__).parse_args(list(words))
    # Import late: --help should not wait for torch.
    from diffreid_lightning.cli.versions import describe_versions

    print(f"{describe_versions()}\n", flush=True)
    broken = 0
    for check in (_packages, _devices, _resources, _tracking, _embedded):
        for mark, name, state in check():
            broken += mark == BROKEN
            print(f"{mark:<8}{name}: {state}", flush=True)
    print("\nThe default chain cannot run here." if broken else f"\nThe default chain can run here: {_CHAIN}")
    return int(broken > 0)


def _packages() -> Iterator[Finding]:
    found: dict[str, list[str]] = {"": []}
    for extra, name, state in _declared():
        found.setdefault(extra, []).extend([f"{name} {state}"] * bool(state))
    for extra, missing in found.items():
        mark = OK if not missing else ABSENT if extra else BROKEN
        yield mark, f"extra {extra}" if extra else "required packages", "; ".join(missing) or "installed"


def _declared() -> Iterator[tuple[str, str, str]]:
    """Yield extra, name and problem of each declared requirement; the problem is empty where there is none."""
    from importlib.metadata import PackageNotFoundError, requires, version

    from packaging.requirements import Requirement

    try:
        texts = requires(_PACKAGE) or []
    except PackageNotFoundError:  # not installed: run from a clone
        texts = []
    for each in map(Requirement, texts):
        extra = str(each.marker).rpartition("extra == ")[2].strip('"') if each.marker is not None else ""
        if each.marker is not None and not each.marker.evaluate({"extra": extra}):
            continue
        try:
            number = version(each.name)
            fits = each.specifier.contains(number, prereleases=True)
            yield extra, each.name, "" if fits else f"{number} is not {each.specifier}"
        except PackageNotFoundError:
            yield extra, each.name, "not installed"


def _devices() -> Iterator[Finding]:
    import torch

    names = [f"cuda:{number}" for number in range(torch.cuda.device_count())]
    for name in ["cpu", *names, *["mps"] * torch.backends.mps.is_available()]:
        title, memory = name, ""
        if name.startswith("cuda"):
            try:
                title = f"{name} ({torch.cuda.get_device_name(name)})"
                free, total = torch.cuda.mem_get_info(name)
            except RuntimeError as error:  # it is full, or another process has it for itself
                yield ABSENT, title, f"cannot be used: {first_line(error)}"
                continue
            memory = f", {_size(free)} of {_size(total)} free"
        precisions = [words for words, kind in (("bf16", torch.bfloat16), ("fp16", torch.float16)) if _runs(name, kind)]
        computes = _runs(name, torch.float32)
        state = ", ".join(["fp32", *precisions]) + memory if computes else "a matrix product fails"
        yield OK if computes else BROKEN if name == "cpu" else ABSENT, title, state


def _runs(device: str, kind: object) -> bool:
    """Return true if a convolution and its gradient can be computed in a precision."""
    import torch

    try:
        layer = torch.nn.Conv2d(3, 4, 3, device=device, dtype=kind)
        result = layer(torch.ones(1, 3, 8, 8, device=device, dtype=kind))  # type: ignore[call-overload]
        result.sum().backward()
        return bool(result.isfinite().all())
    except (RuntimeError, TypeError):  # no kernel for it
        return False


def _resources() -> Iterator[Finding]:
    cores = usable_cores()
    yield OK, "cores", f"{cores}"
    meminfo = Path("/proc/meminfo")
    lines = meminfo.read_text().splitlines() if meminfo.is_file() else []
    free = next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable")), None)
    yield OK, "free memory", "unknown" if free is None else _size(free)
    here = Path.cwd()
    room, writable = shutil.disk_usage(here).free, os.access(here, os.W_OK)
    state = _size(room) if writable else "this folder cannot be written to"
    yield OK if writable and room > _LEAST_ROOM else BROKEN, f"free disk in {here}", state


def _tracking() -> Iterator[Finding]:
    from diffreid_lightning.tracking import has_credentials, tracking_mode

    try:
        key = "a key is set" if has_credentials() else "no key"
        yield OK, "W&B", f"{tracking_mode()}, {key}"
    except UserError as error:
        yield BROKEN, "W&B", f"{error.what} Found: {error.found}"


def _embedded() -> Iterator[Finding]:
    """Check the archives by their checksums, and the weights by their declared sizes."""
    from safetensors import SafetensorError, safe_open

    from diffreid_lightning.captioning.attribute_network import TINY_READER, AttributeNetwork
    from diffreid_lightning.captioning.reader_captioner import reader_folder
    from diffreid_lightning.datasets import MiniPerson
    from diffreid_lightning.diffusion.checkpoints import TINY_SD, locate_pipeline

    for domain in ("campus", "station"):
        name = f"miniperson:{domain}"
        try:
            with zipfile.ZipFile(MiniPerson(domain).root) as archive:
                damaged = archive.testzip()
            rows = len(MiniPerson(domain, strict=True).manifest())
            yield BROKEN if damaged else OK, name, f"damaged: {damaged}" if damaged else f"{rows:,} images"
        except (UserError, OSError, zipfile.BadZipFile) as error:
            yield BROKEN, name, first_line(error)
    try:
        folder, tensors = locate_pipeline(TINY_SD), 0
        for part in ("text_encoder", "unet", "vae"):
            with safe_open(next(folder.glob(f"{part}/*.safetensors")), framework="numpy") as weights:
                tensors += len(list(weights.keys()))
        for file in folder.rglob("*.json"):
            json.loads(file.read_text(encoding="utf-8"))
        yield OK, TINY_SD, f"{tensors} tensors"
    except (UserError, OSError, ValueError, SafetensorError, StopIteration) as error:
        yield BROKEN, TINY_SD, first_line(error)
    try:
        network = AttributeNetwork.load(reader_folder(TINY_READER))
        yield OK, TINY_READER, f"{len(network.state_dict())} tensors"
    except UserError as error:
        yield BROKEN, TINY_READER, first_line(error)


def _size(count: int) -> str:
    return f"{count / (1 << 30):.1f} GiB"
