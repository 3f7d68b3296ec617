"""Export a trained network as ONNX, checked against PyTorch."""

from __future__ import annotations

import importlib
import json
import logging
import warnings
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from diffreid_lightning.deployment.trained_network import TrainedNetwork
from diffreid_lightning.errors import RunError, UserError, needs_extra, translate_disk_errors
from diffreid_lightning.paths import make_folder
from diffreid_lightning.storage.atomic import replace_file

_NEEDED = ("onnx", "onnxruntime", "onnxscript")
_EXAMPLE = Path(__file__).with_name("onnx_example.py")
_LARGEST = 1e-3  # difference, relative to the largest feature, that rounding can explain
#: in the file's metadata, beside what the features depend on
_STATED = {
    "input": "float32, RGB, 0..1 (pixels / 255), N x 3 x height x width",
    "resize": "to the whole image_size with PIL.Image.BICUBIC, neither cropped nor padded",
    "normalization": "inside the network: do not subtract the mean",
    "output": "float32 features, not of unit length; compare them by cosine",
}


class ExportedNetwork(NamedTuple):
    """Result of :func:`export_onnx`."""

    path: Path
    example: Path  #: a script beside it that needs no PyTorch
    is_kept: bool  #: the script was there and is another, so it was left as it is
    difference: float  #: largest difference from PyTorch's features
    scale: float  #: largest absolute feature


def export_onnx(network: TrainedNetwork, out: Path) -> ExportedNetwork:
    """Write a network as ONNX, replacing the file, and an example script beside it, unless another script is there.

    Input ``images``: (B, 3, H, W) float32, RGB in 0..1; B is free. Output ``features``: (B, D) float32, not of unit
    length. The normalization is inside; size, resizing and color order are in the metadata.

    Raises:
        UserError: a package of the extra ``onnx`` is missing, or ``out`` does not end in .onnx.
        RunError: the network cannot be exported, its export computes other features, or the disk refuses.
    """
    if out.suffix != ".onnx":
        raise UserError(f"{out} does not name an ONNX file.", remedy="end it in .onnx")
    with needs_extra("onnx", "ONNX files cannot be written here.", f"the packages {', '.join(_NEEDED)}"):
        onnx, onnxruntime, _ = map(importlib.import_module, _NEEDED)
    model = _trace(network.cpu())
    record = {name: value if isinstance(value, str) else json.dumps(value) for name, value in network.record.items()}
    onnx.helper.set_model_props(model, {**_STATED, **record})
    with translate_disk_errors(f"{out} cannot be written.", "choose another --out"):
        make_folder(out.parent)
        with replace_file(out) as staged:
            onnx.save(model, staged)
            session = onnxruntime.InferenceSession(str(staged), providers=["CPUExecutionProvider"])
            difference, scale = _compare(network, session)
        example, is_kept = _write_example(out)
    return ExportedNetwork(out, example, is_kept, difference, scale)


def _write_example(out: Path) -> tuple[Path, bool]:
    """Write the example script beside the file, unless another one is there; return its path, and whether one is."""
    example, content = out.with_name(f"{out.stem}_example.py"), _EXAMPLE.read_bytes()
    if example.exists():
        return example, example.read_bytes() != content
    with replace_file(example) as staged:
        staged.write_bytes(content)
    return example, False


def _trace(network: TrainedNetwork) -> Any:
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)  # it warns of its own parts
    try:
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                network,
                (torch.rand(2, 3, *network.backbone.image_size),),
                dynamo=True,
                dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
                input_names=["images"],
                output_names=["features"],
                verbose=False,
            )
    except Exception as error:  # of torch.export, the decompositions or the translation
        raise RunError(
            f"{network.backbone.name} cannot be exported as ONNX.",
            found=f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}",
            remedy="report it with python -m diffreid_lightning --version; other architectures export",
        ) from error
    finally:
        logger.setLevel(level)
    assert program is not None
    return program.model_proto


def _compare(network: TrainedNetwork, session: Any) -> tuple[float, float]:
    """Return the largest difference from PyTorch's features over two batch sizes, and the largest feature."""
    difference = scale = 0.0
    for size in (1, 3):
        images = torch.rand(size, 3, *network.backbone.image_size, generator=torch.Generator().manual_seed(size))
        with torch.inference_mode():
            wanted = network(images).numpy()
        (found,) = session.run(["features"], {"images": images.numpy()})
        difference = max(difference, float(np.abs(found - wanted).max()))
        scale = max(scale, float(np.abs(wanted).max()))
    if not difference <= _LARGEST * scale:
        raise RunError(
            "The exported network computes other features than PyTorch.",
            looked_for=f"differences of at most {_LARGEST * scale:.2g}",
            found=f"{difference:.2g}, features up to {scale:.2g}",
            remedy="report it with python -m diffreid_lightning --version",
        )
    return difference, scale
