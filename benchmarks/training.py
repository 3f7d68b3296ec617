"""Measure the time of a training step: ``fit`` beside a bare PyTorch loop and beside torchreid's trainer.

    python -m benchmarks.training [--backbone resnet50 --height 256 --width 128 --batch 16] [--peers] [--rounds 3]
    python -m benchmarks.training --batch 256 --precision bf16-mixed --compile --workers 14 --warm-up 40 --steps 60

prints a Markdown table. All rows train the same network (backbone, BNNeck, classifier) with the same losses and Adam on
the same JPEG files of MiniPerson in Market-1501's layout, on the GPU where there is one. ``fit`` is the command line
with its default callbacks and loggers (W&B offline); the bare loop draws from the same data module, the synthetic row
from one batch that lies on the device. torchreid's row is its own engine, data manager, sampler, transforms and losses
around the network, in single precision on the CPU. Kept images are decoded in the first epoch, which the warm-up has to
hold. Every measurement is a process of its own, the rows alternate over the rounds, and the steps before ``--warm-up``
do not count. A ratio is the median of the rounds' ratios.

``--peers`` adds torchreid (0.2.5, PyPI). It asks for packages that training does not use and that are replaced by empty
modules here, so put the bare package beside this one: ``pip install --no-deps torchreid``.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import types
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.step_clock import Clock, clock_words, measure_in_turn, repeat_epochs, table
from diffreid_lightning.cli import main as command_line
from diffreid_lightning.datasets.market_export import export_market1501
from diffreid_lightning.devices import fastest_device
from diffreid_lightning.registry import MiniPerson, PKSampler, ReIDDataModule, SupervisedReID, TrainView
from diffreid_lightning.reid.losses import batch_hard_triplet
from diffreid_lightning.reid.person_images import PersonBatch
from experiments.instruments.devices import device_name

IDENTITIES = 4
RATE = 3.5e-4


def market_of(root: Path) -> Path:
    """Return the place of Market-1501 below a root, as torchreid expects it."""
    return root / "market1501" / "Market-1501-v15.09.15"


def write_images(root: Path) -> None:
    """Write MiniPerson in Market-1501's layout, unless it is there."""
    if not market_of(root).is_dir():
        market_of(root).parent.mkdir(parents=True, exist_ok=True)
        export_market1501(MiniPerson("campus").manifest(), market_of(root))


def fit(arguments: argparse.Namespace, *more: str) -> None:
    """Measure the command line."""
    per_identity = arguments.batch // IDENTITIES
    words = [
        f"--data.train={market_of(arguments.data)}",
        f"--data.image_size=[{arguments.height},{arguments.width}]",
        f"--data.num_workers={arguments.workers}",
        f"--data.sampler.init_args.identities_per_batch={IDENTITIES}",
        f"--data.sampler.init_args.images_per_identity={per_identity}",
        "--data.train_view=TrainView",
        f"--model.backbone={arguments.backbone}",
        "--model.pooling=avg",
        f"--model.optimizer.lr={RATE}",
        *clock_words(arguments.warm_up, arguments.steps),
        f"--trainer.precision={arguments.precision}",
        *(["--trainer.callbacks+=CompileBackbone"] if arguments.compile else []),
    ]
    command_line(["fit", "--test_with=none", *words, *more])


def network(arguments: argparse.Namespace, identities: int) -> nn.Module:
    """Build the network that all rows train."""
    model = SupervisedReID(arguments.backbone, (arguments.height, arguments.width), "avg")
    return _Network(model.backbone, model.neck, identities)


class _Network(nn.Module):
    """Backbone, neck and classifier, with the outputs that torchreid's engine expects."""

    def __init__(self, backbone: Any, neck: nn.Module, identities: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.neck = neck
        self.classifier = nn.Linear(backbone.num_features, identities, bias=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        features = self.backbone(images)
        return self.classifier(self.neck(features)), features


def bare_loop(arguments: argparse.Namespace, *, synthetic: bool = False) -> None:
    """Measure a loop with nothing but forward, backward and step.

    Args:
        arguments: of the command.
        synthetic: train on one batch over and over, which lies on the device.
    """
    data = ReIDDataModule(
        str(market_of(arguments.data)),
        image_size=(arguments.height, arguments.width),
        sampler=lambda labels: PKSampler(labels, IDENTITIES, arguments.batch // IDENTITIES),
        train_view=TrainView(),
        num_workers=arguments.workers,
    )
    device = fastest_device()
    model = network(arguments, data.num_identities).train().to(device)
    if arguments.compile:
        model.backbone.compile()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, weight_decay=5e-4)
    clock = Clock(arguments.warm_up, arguments.steps)
    loader: Iterable[PersonBatch] = data.train_dataloader()
    if synthetic:
        first = next(iter(loader))
        loader = [first._replace(images=first.images.to(device), labels=first.labels.to(device))]
    for batch in repeat_epochs(loader):
        with torch.autocast(device.type, torch.bfloat16, enabled=arguments.precision == "bf16-mixed"):
            logits, features = model(batch.images.to(device, non_blocking=True).float().div_(255))
            labels = batch.labels.to(device, non_blocking=True)
            loss = F.cross_entropy(logits, labels, label_smoothing=0.1)
        loss = loss + batch_hard_triplet(features.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if clock.step_done():
            return


def torchreid_engine(arguments: argparse.Namespace) -> None:
    """Measure torchreid's trainer on the same images and network."""
    for name in ("cv2", "gdown", "h5py"):
        sys.modules.setdefault(name, types.ModuleType(name))
    tensorboard = types.ModuleType("torch.utils.tensorboard")
    tensorboard.SummaryWriter = _NoWriter  # type: ignore[attr-defined]
    sys.modules["torch.utils.tensorboard"] = tensorboard
    try:
        from torchreid import reid
    except ImportError as error:
        print(json.dumps({"error": f"not run: {error}"}))
        return
    with tempfile.TemporaryDirectory() as folder:
        manager = reid.data.ImageDataManager(
            root=str(arguments.data),
            sources="market1501",
            height=arguments.height,
            width=arguments.width,
            transforms=["random_flip", "random_crop", "random_erase"],
            batch_size_train=arguments.batch,
            workers=arguments.workers,
            num_instances=arguments.batch // IDENTITIES,
            train_sampler="RandomIdentitySampler",
            use_gpu=False,
        )
        model = network(arguments, manager.num_train_pids)
        optimizer = torch.optim.Adam(model.parameters(), lr=RATE, weight_decay=5e-4)
        engine = reid.engine.ImageTripletEngine(manager, model, optimizer, use_gpu=False)
        _count_steps(engine, arguments)
        engine.run(save_dir=folder, max_epoch=1000, print_freq=20)


class _NoWriter:
    """Stand-in for the TensorBoard writer, which costs nothing."""

    def __init__(self, *_: Any, **__: Any) -> None: ...

    def add_scalar(self, *_: Any) -> None: ...

    def close(self) -> None: ...


def _count_steps(engine: Any, arguments: argparse.Namespace) -> None:
    """End the process after the last step that counts."""
    step, clock = engine.forward_backward, Clock(arguments.warm_up, arguments.steps)

    def counted(data: Any) -> Any:
        summary = step(data)
        if clock.step_done():
            os._exit(0)  # loader processes would be waited for
        return summary

    engine.forward_backward = counted


ROWS: dict[str, Callable[[argparse.Namespace], None]] = {
    "bare": bare_loop,
    "synthetic": lambda arguments: bare_loop(arguments, synthetic=True),
    "fit": fit,
    "kept": lambda arguments: fit(arguments, "--data.cache_images=true"),
    "torchreid": torchreid_engine,
}
NAMES = {
    "bare": "the bare PyTorch loop",
    "synthetic": "the same on one batch that lies on the device",
    "fit": "**fit**",
    "kept": "**fit**, `--data.cache_images true`",
    "torchreid": "torchreid",
}


def main() -> None:
    """Run the benchmark, or one row of it."""
    parser = argparse.ArgumentParser(description="Time of a training step beside a bare loop and torchreid.")
    parser.add_argument("--data", type=Path, default=Path("runs/benchmarks/training"), help="where images are written")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16, help=f"images, a multiple of {IDENTITIES}")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=("32-true", "bf16-mixed"), default="32-true")
    parser.add_argument("--compile", action="store_true", help="compile the backbone of all rows but torchreid's")
    parser.add_argument("--peers", action="store_true", help="add torchreid's trainer")
    parser.add_argument("--row", choices=ROWS, help="measure this row alone, in this process, and print JSON")
    arguments = parser.parse_args()
    arguments.data = arguments.data.resolve()
    write_images(arguments.data)
    if arguments.row:
        ROWS[arguments.row](arguments)
        return
    given = ("data", "backbone", "height", "width", "batch", "workers", "warm_up", "steps", "precision")
    words = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in given]
    words += ["--compile"] if arguments.compile else []
    print(
        f"{device_name()}, {torch.get_num_threads()} threads, torch {torch.__version__}; {arguments.backbone}, "
        f"{arguments.height}×{arguments.width}, batches of {arguments.batch}, {arguments.precision}"
        f"{', compiled' if arguments.compile else ''}"
    )
    names = {row: name for row, name in NAMES.items() if arguments.peers or row != "torchreid"}
    seconds = measure_in_turn("benchmarks.training", names, words, arguments.rounds)
    print("\n".join(table(seconds, NAMES, "bare", arguments.batch)))


if __name__ == "__main__":
    main()
