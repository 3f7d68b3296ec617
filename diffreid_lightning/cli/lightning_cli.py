"""LightningCLI in subclass mode over layered YAML: ``fit``, ``validate``, ``test`` and ``predict``."""

from __future__ import annotations

import os
from argparse import ArgumentError
from typing import Any

from jsonargparse import Namespace
from lightning.fabric.plugins.io.checkpoint_io import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.model_helpers import is_overridden

import diffreid_lightning.registry  # noqa: F401 (its classes can be named without a module from here on)
from diffreid_lightning.backbones.weight_provenance import trained_identities
from diffreid_lightning.callbacks.averaging import FinishAveraging
from diffreid_lightning.callbacks.epoch_seed import EpochSeed
from diffreid_lightning.callbacks.run_artifacts import log_stage
from diffreid_lightning.cli import config_errors, linked_settings, run_folder, start_checkpoint, trainer_checks
from diffreid_lightning.cli.checkpoint_checks import check_own
from diffreid_lightning.cli.command_config import read_configuration
from diffreid_lightning.cli.config_classes import write_word
from diffreid_lightning.cli.environment import silence_advice
from diffreid_lightning.cli.library_errors import (
    own_error,
    refuse_unknown_monitors,
    refuse_unsupported,
    worded_building,
    worded_parsing,
    worded_running,
)
from diffreid_lightning.cli.lightning_parser import PROGRAM, LayeredParser, TestWith
from diffreid_lightning.cli.run_record import RunProgress, RunRecord, place_logger
from diffreid_lightning.datasets.training_rows import warn_of_seen
from diffreid_lightning.errors import DiffReIDError, UserError
from diffreid_lightning.paths import user_path
from diffreid_lightning.reid.datamodule import ReIDDataModule
from diffreid_lightning.reid.evaluation import RetrievalEvaluator
from diffreid_lightning.reid.held_out import warn_of_no_epoch, warn_of_nobody, why_nobody
from diffreid_lightning.storage.checkpoint_io import AtomicCheckpointIO
from diffreid_lightning.tracking import WandbTracker, finish_tracking
from diffreid_lightning.training.trainer_parts import callbacks_of
from diffreid_lightning.training.training_state import TrainingStateCheck


class DiffReIDCLI(LightningCLI):
    """LightningCLI with the four Lightning subcommands; opens the run folder before classes are built."""

    run: run_folder.RunFolder

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Link settings that two classes share; a seed given for the data overrides ``seed_everything``."""
        parser.link_arguments(linked_settings.DATA_SIZE, linked_settings.MODEL_SIZE)
        if _links_seed(parser):
            parser.link_arguments(linked_settings.SEED, linked_settings.DATA_SEED, compute_fn=linked_settings.data_seed)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Return the subcommands, with the trainer arguments that are not settings."""
        return {name: {*skipped, *linked_settings.DECIDED} for name, skipped in LightningCLI.subcommands().items()}

    def _prepare_subcommand_parser(self, klass: type, subcommand: str, **kwargs: Any) -> LightningArgumentParser:
        """Add the options of a subcommand; one that was not asked for is only named."""
        if subcommand not in self.parser_kwargs:
            self._subcommand_method_arguments[subcommand] = []
            return self.init_parser(**kwargs)
        parser = super()._prepare_subcommand_parser(klass, subcommand, **kwargs)
        if subcommand == "fit":
            parser.add_argument(
                "--test_with",
                type=TestWith,
                default="last",
                help="Which weights are evaluated on query and gallery at the end: those of the last epoch, of the "
                "epoch that was best on the held-out identities, or no evaluation.",
            )
        return parser

    def _add_subcommands(self, parser: LightningArgumentParser, **kwargs: Any) -> None:
        """Set the program name and usage in ``--help``, which would name each of a hundred settings."""
        super()._add_subcommands(parser, **kwargs)
        for name, subcommand_parser in self._subcommand_parsers.items():
            subcommand_parser.prog = f"{PROGRAM} {name}"
            subcommand_parser.usage = "%(prog)s [--config NAME|FILE ...] [--SETTING VALUE ...]"

    def _parse_ckpt_path(self) -> None:
        """Do nothing: the run's ``config.yaml``, not pickled hyperparameters, configures the classes."""

    def _set_seed(self) -> None:
        """Seed everything; a seed that Lightning chooses (``true``) is also the data's.

        Raises:
            UserError: an outside launcher has started several processes, each of which would choose its own.
        """
        config = self.config[self.subcommand]
        chosen_here = config.seed_everything is True
        if chosen_here and run_folder.launched_world() > 1 and "PL_GLOBAL_SEED" not in os.environ:
            raise UserError(
                "seed_everything cannot be true in several processes: each would choose a seed of its own.",
                remedy="give a number, such as --seed_everything 1",
            )
        super()._set_seed()
        arguments = config.data.get("init_args")
        if chosen_here and arguments and "seed" in arguments and _links_seed(self._parser(self.subcommand)):
            arguments.seed = config.seed_everything

    def before_instantiate_classes(self) -> None:
        """Open the run folder and point trainer and loggers at it."""
        config = self.config[self.subcommand]
        root = user_path(config.trainer.default_root_dir or "runs")
        asked, config.ckpt_path = config.ckpt_path, None
        text = self.save_config_kwargs["text"] = self._parser(self.subcommand).dump(config, skip_unset=False)
        if self.subcommand == "fit":
            checkpoint, continued = start_checkpoint.where_to_start(asked, root, text)
            if asked is not None or continued is not None:
                rank_zero_info(start_checkpoint.describe_start(checkpoint, continued, root))
        else:
            checkpoint, continued = start_checkpoint.resolve_checkpoint(asked, root), None
        if checkpoint is not None:
            check_own(checkpoint, to_go_on=self.subcommand == "fit")
        trainer_checks.check(config.trainer, training=self.subcommand == "fit")
        if self.subcommand == "fit" and checkpoint is not None and config.trainer.fast_dev_run:
            raise UserError(
                "A training that goes on cannot be tried out: fast_dev_run ends after the first epoch, which is done.",
                found=f"--ckpt_path, and --trainer.fast_dev_run {config.trainer.fast_dev_run}",
                remedy="leave one of the two out",
            )
        config.ckpt_path = None if checkpoint is None else str(checkpoint)
        self.run = self.save_config_kwargs["run"] = run_folder.open_run(root, str(self.subcommand), continued)
        config.trainer.default_root_dir = str(self.run.path)
        loggers = config.trainer.logger
        for logger in loggers if isinstance(loggers, list) else [loggers]:
            if isinstance(logger, Namespace) and "init_args" in logger:
                place_logger(logger.class_path, logger.init_args, self.run)

    def instantiate_classes(self) -> None:
        """Build data, model and trainer; what one of them refuses becomes a user error."""
        try:
            super().instantiate_classes()
        except (DiffReIDError, MisconfigurationException):
            raise
        except Exception as error:
            written = getattr(self._parser(self.subcommand), "written", {})
            unknown = config_errors.explain(written, written) if isinstance(error, (ValueError, TypeError)) else None
            worded = own_error(error) or unknown or worded_building(error)
            if worded is None:
                raise
            raise worded from error
        refuse_unsupported(self.trainer)
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbTracker):
                logger.hold()  # until RunRecord.setup
        if self._get(self.config, "ckpt_path") and hasattr(self.model, "expect_checkpoint"):
            self.model.expect_checkpoint()

    def before_fit(self) -> None:
        """Refuse, before training, a final test that cannot take place."""
        which, data = self._test_with, self.datamodule
        if isinstance(data, ReIDDataModule):
            unvalidated = self._no_validation(data)
            warn_of_nobody(data)
            warn_of_no_epoch(data, unvalidated)
            if data.val_set is not None:
                init_from = getattr(self.model, "init_from", None)
                warn_of_seen(trained_identities(init_from), init_from, data.val_set.rows)
            refuse_unknown_monitors(self.trainer, self.model, unvalidated)
            measured = any(isinstance(each, RetrievalEvaluator) for each in callbacks_of(self.trainer))
            if measured and unvalidated is None:
                data.refuse_unanswerable_validation()
        if which == "none" or not isinstance(data, ReIDDataModule):
            return
        if data.has_test or data.names_test:
            data.refuse_unanswerable()
        obstacle = self._no_best(data) if which == "best" else None
        if obstacle is not None:
            raise UserError(
                "There will be no best checkpoint to test.",
                looked_for="validations on held-out identities, and a callback that keeps the best epoch",
                found=obstacle,
                remedy="use --test_with last, or change that",
            )

    @property
    def _test_with(self) -> str:
        """Return the weights to evaluate after fit; ``none`` under ``fast_dev_run`` or without a ``test_step``."""
        if getattr(self.trainer, "fast_dev_run", False) or not is_overridden("test_step", self.model, LightningModule):
            return "none"
        return str(self._get(self.config, "test_with"))

    def _no_best(self, data: ReIDDataModule) -> str | None:
        """Return why this fit cannot have a best checkpoint, or None."""
        obstacle = self._no_validation(data)
        if obstacle is None and getattr(self.trainer.checkpoint_callback, "monitor", None) is None:
            return "trainer.callbacks has no ModelCheckpoint with a monitor, such as RunCheckpoint"
        return obstacle

    def _no_validation(self, data: ReIDDataModule) -> str | None:
        """Return why no validation metric will be measured, or None."""
        trainer = self.trainer
        every, epochs = trainer.check_val_every_n_epoch, trainer.max_epochs
        if data.val_set is None:
            return why_nobody(data)
        if every is not None and epochs is not None and 0 <= epochs < every:
            return f"trainer.max_epochs {epochs}, trainer.check_val_every_n_epoch {every}: no epoch is validated"
        if not isinstance(trainer.limit_val_batches, float) or trainer.limit_val_batches < 1:
            return f"trainer.limit_val_batches {trainer.limit_val_batches}: nobody is searched for among all"
        return None

    def before_validate(self) -> None:
        """Refuse to validate without held-out identities."""
        data = self.datamodule
        if isinstance(data, ReIDDataModule) and data.val_set is None:
            how = "give the dataset's cameras" if data.val_share else "hold identities out with --data.val_share 0.1"
            raise UserError(
                "There is nobody to validate on.",
                looked_for="identities held out of train",
                found=why_nobody(data),
                remedy=f"{how}, or use test",
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the trainer, with this package's checkpoint writer and progress bar unless the config sets others.

        The end of averaging comes before every other callback's end of fit.
        """
        config = self._get(self.config_init, "trainer")
        plugins = config.plugins or []
        plugins = list(plugins) if isinstance(plugins, list) else [plugins]
        own_writer = any(name in str(config.strategy).lower() for name in ("fsdp", "deepspeed", "modelparallel"))
        if not own_writer and not any(isinstance(plugin, CheckpointIO) for plugin in plugins):
            plugins.append(AtomicCheckpointIO())
        given = config.callbacks or []
        callbacks = [TrainingStateCheck(), FinishAveraging(), *(given if isinstance(given, list) else [given])]
        wants_bar = config.enable_progress_bar is not False and not config.barebones
        if wants_bar and not any(isinstance(callback, ProgressBar) for callback in callbacks):
            callbacks.append(RunProgress())
        try:
            return super().instantiate_trainer(plugins=plugins, callbacks=callbacks, **kwargs)
        except TypeError as error:  # Lightning's for some values it does not know, such as devices=abc
            raise UserError("Lightning cannot build this trainer.", found=" ".join(str(error).split())) from error

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        """Load checkpoints with ``weights_only``, and leave the results table to its callback."""
        kwargs = super()._prepare_subcommand_kwargs(subcommand)
        kwargs["weights_only"] = True
        if subcommand in ("validate", "test"):
            kwargs["verbose"] = False
        if subcommand == "predict":
            kwargs["return_predictions"] = False  # a callback writes them; kept too, they would fill the memory
        return kwargs

    def after_predict(self) -> None:
        """Log what a stage read and wrote."""
        sections = (self._get(self.config, part) for part in ("data", "model"))
        log_stage(self.trainer, [each.as_dict() for each in sections if each is not None], self.run.path)

    def after_fit(self) -> None:
        """Evaluate on query and gallery, once, with the weights that ``--test_with`` names."""
        which, data = self._test_with, self.datamodule
        if self.trainer.interrupted:
            return
        self._forget_requeue()
        self.after_predict()
        if which == "none":
            return
        if not getattr(data, "has_test", False):
            if isinstance(data, ReIDDataModule):
                rank_zero_info(
                    f"Not tested: {data.test_name} has no query and gallery; give a dataset that has, with --data.test."
                    f"\nrun folder: {self.run.path}; search with it: python -m diffreid_lightning search QUERY GALLERY "
                    f"--model {self.run.path} --out matches"
                )
            return
        checkpoint = None
        if which == "best":
            checkpoint = getattr(self.trainer.checkpoint_callback, "best_model_path", "") or None
            if checkpoint is None:
                raise UserError(
                    "There is no best checkpoint to test.",
                    looked_for="a checkpoint chosen on held-out identities",
                    found="the training ended before the first validation",
                    remedy=f"test --ckpt_path {self.run.path} tests the last one",
                )
        try:
            self.trainer.test(
                self.model, datamodule=self.datamodule, ckpt_path=checkpoint, weights_only=True, verbose=False
            )
        except DiffReIDError:
            rank_zero_info(
                f"The training is complete, its test is not; this repeats it: test --ckpt_path {self.run.path}"
            )
            raise

    def _forget_requeue(self) -> None:
        """Remove the checkpoint of a requeued SLURM job: the trainer would test it instead of the last epoch."""
        if self.trainer.is_global_zero:
            for path in start_checkpoint.requeue_checkpoints(self.run.path):
                path.unlink()
        self.trainer.strategy.barrier()


def run_command(subcommand: str, words: list[str]) -> None:
    """Merge the configs, parse, build and run; explain errors of configuration.

    Args:
        subcommand: ``fit``, ``validate``, ``test`` or ``predict``.
        words: the command line after it.

    Raises:
        UserError: the configuration cannot be parsed or built.
    """
    configuration = read_configuration(subcommand, words)
    silence_advice()
    try:
        DiffReIDCLI(
            LightningModule,
            LightningDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            parser_class=LayeredParser,
            parser_kwargs={subcommand: {"written": configuration.written}},
            auto_configure_optimizers=False,
            save_config_callback=RunRecord,
            save_config_kwargs={"save_to_log_dir": False},
            seed_everything_default=0,
            trainer_defaults={"callbacks": [EpochSeed()]},
            args=[subcommand, "--config", write_word(configuration.resolved), *configuration.asked],
        )
    except ArgumentError as error:
        raise worded_parsing(error, subcommand, configuration.resolved) from error
    except DiffReIDError:
        raise
    except Exception as error:
        worded = worded_running(error)
        if worded is None:
            raise
        raise worded from error
    finally:
        finish_tracking()


def _links_seed(parser: LightningArgumentParser) -> bool:
    """Return true if the data's seed follows ``seed_everything``: none was given for the data."""
    return isinstance(parser, LayeredParser) and not linked_settings.is_written(
        parser.written, linked_settings.DATA_SEED
    )
