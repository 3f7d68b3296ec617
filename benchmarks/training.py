"""Measure the time of a training step: ``fit`` beside a bare PyTorch loop and beside torchreid's trainer.

    python -m benchmarks.training [--backbone resnet50 --height 256 --width 128 --batch 16] [--peers] [--rounds 3]

prints a Markdown table. All rows train the same network (backbone, BNNeck, classifier) with the same losses and Adam on
the same images of MiniPerson. ``fit`` is the command line with its default callbacks and loggers (W&B offline); the
bare loop draws from the same data module. torchreid's row is its own engine, data manager, sampler, transforms and
losses around the network, on the same images in Market-1501's layout. Kept images are decoded in the first epoch, which
the warm-up has to hold. Every measurement is a process of its own, the
rows alternate over the rounds, and the steps before ``--warm-up`` do not count. A ratio is the median of the rounds'
ratios.

``--peers`` adds torchreid (0.2.5, PyPI). It asks for packages that training does not use and that are replaced by empty
modules here, so put the bare package beside this one: ``pip install --no-deps torchreid``.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from diffreid_lightning.cli import main as command_line
from diffreid_lightning.datasets.market_export import export_market1501
from diffreid_lightning.registry import MiniPerson, PKSampler, ReIDDataModule, SupervisedReID, TrainView
from diffreid_lightning.reid.losses import batch_hard_triplet

IDENTITIES = 4
RATE = 3.5e-4


class Clock:
    """Print the seconds of a step, from the end of the warm-up to the end of the last batch.

    Args:
        warm_up: steps that do not count.
        steps: steps that do.
    """

    def __init__(self, warm_up: int, steps: int) -> None:
        self.warm_up = warm_up
        self.steps = steps
        self._done = 0
        self._begun = 0.0

    def step_done(self) -> bool:
        """Look at the clock after a step; return true after the last one, whose result is printed."""
        self._done += 1
        if self._done == self.warm_up:
            self._begun = time.perf_counter()
        if self._done < self.warm_up + self.steps:
            return False
        print(json.dumps({"seconds": (time.perf_counter() - self._begun) / self.steps}), flush=True)
        return True


class StepClock(Callback):
    """Measure the steps of a trainer; see :class:`Clock`."""

    def __init__(self, warm_up: int, steps: int) -> None:
        self.clock = Clock(warm_up, steps)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Look at the clock."""
        self.clock.step_done()


def fit(arguments: argparse.Namespace, *more: str) -> None:
    """Measure the command line."""
    per_identity = arguments.batch // IDENTITIES
    words = [
        f"--data.image_size=[{arguments.height},{arguments.width}]",
        f"--data.num_workers={arguments.workers}",
        f"--data.sampler.init_args.identities_per_batch={IDENTITIES}",
        f"--data.sampler.init_args.images_per_identity={per_identity}",
        "--data.train_view=TrainView",
        f"--model.backbone={arguments.backbone}",
        "--model.pooling=avg",
        f"--model.optimizer.lr={RATE}",
        "--trainer.max_epochs=1000",
        f"--trainer.max_steps={arguments.warm_up + arguments.steps}",
        "--trainer.check_val_every_n_epoch=null",
        "--trainer.callbacks+=benchmarks.training.StepClock",
        f"--trainer.callbacks.warm_up={arguments.warm_up}",
        f"--trainer.callbacks.steps={arguments.steps}",
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


def bare_loop(arguments: argparse.Namespace) -> None:
    """Measure a loop with nothing but forward, backward and step."""
    data = ReIDDataModule(
        "miniperson",
        image_size=(arguments.height, arguments.width),
        sampler=lambda labels: PKSampler(labels, IDENTITIES, arguments.batch // IDENTITIES),
        train_view=TrainView(),
        num_workers=arguments.workers,
    )
    model = network(arguments, data.num_identities).train()
    optimizer = torch.optim.Adam(model.parameters(), lr=RATE, weight_decay=5e-4)
    clock = Clock(arguments.warm_up, arguments.steps)
    while True:
        for batch in data.train_dataloader():
            logits, features = model(batch.images.float().div_(255))
            loss = F.cross_entropy(logits, batch.labels, label_smoothing=0.1)
            loss = loss + batch_hard_triplet(features, batch.labels)
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
        market = Path(folder) / "market1501" / "Market-1501-v15.09.15"
        market.parent.mkdir()
        export_market1501(MiniPerson("campus").manifest(), market)
        manager = reid.data.ImageDataManager(
            root=folder,
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
    "fit": fit,
    "kept": lambda arguments: fit(arguments, "--data.cache_images=true"),
    "torchreid": torchreid_engine,
}
NAMES = {
    "bare": "bare PyTorch loop",
    "fit": "**fit**",
    "kept": "**fit**, `--data.cache_images true`",
    "torchreid": "torchreid",
}


def measure(row: str, words: list[str]) -> dict[str, Any]:
    """Run one row in a process of its own and an empty folder."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {
            **os.environ,
            "WANDB_MODE": "offline",
            "PYTHONPATH": os.pathsep.join([str(Path.cwd()), *sys.path]),
        }
        words = [sys.executable, "-m", "benchmarks.training", "--row", row, *words]
        done = subprocess.run(words, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    results = [json.loads(line) for line in done.stdout.splitlines() if line.startswith(("{",))]
    if not results:
        raise RuntimeError(f"{row} printed no result:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}")
    found: dict[str, Any] = results[0]
    return found


def table(seconds: dict[str, list[float]]) -> list[str]:
    """Format seconds and ratios of all rows as Markdown."""
    lines = ["| | ms a step, median (least to most) | × the bare loop |", "|---|---|---|"]
    for row, values in seconds.items():
        ratio = statistics.median(value / bare for value, bare in zip(values, seconds["bare"], strict=True))
        spread = f"{1000 * min(values):.0f} to {1000 * max(values):.0f}"
        lines.append(f"| {NAMES[row]} | {1000 * statistics.median(values):.0f} ({spread}) | {ratio:.2f} |")
    return lines


def main() -> None:
    """Run the benchmark, or one row of it."""
    parser = argparse.ArgumentParser(description="Time of a training step beside a bare loop and torchreid.")
    parser.add_argument("--backbone", default="resnet50")
    parser.add_argument("--height", type=int, default=256)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--batch", type=int, default=16, help=f"images, a multiple of {IDENTITIES}")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--warm-up", type=int, default=3)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--peers", action="store_true", help="add torchreid's trainer")
    parser.add_argument("--row", choices=ROWS, help="measure this row alone, in this process, and print JSON")
    arguments = parser.parse_args()
    if arguments.row:
        ROWS[arguments.row](arguments)
        return
    given = ("backbone", "height", "width", "batch", "workers", "warm_up", "steps")
    words = [f"--{name.replace('_', '-')}={getattr(arguments, name)}" for name in given]
    print(
        f"{platform.processor() or platform.machine()}, {torch.get_num_threads()} threads, torch {torch.__version__}; "
        f"{arguments.backbone}, {arguments.height}×{arguments.width}, batches of {arguments.batch}"
    )
    rows = [row for row in ROWS if arguments.peers or row != "torchreid"]
    seconds: dict[str, list[float]] = {row: [] for row in rows}
    for _ in range(arguments.rounds):
        for row in list(seconds):
            found = measure(row, words)
            if "error" in found:
                print(f"{NAMES[row]}: {found['error']}")
                del seconds[row]
            else:
                seconds[row].append(found["seconds"])
    print("\n".join(table(seconds)))


if __name__ == "__main__":
    main()
