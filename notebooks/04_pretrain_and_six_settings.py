# %% [markdown]
# # Pre-train on Diff-Person, and six settings
#
# The second half of the method: pre-train a small Re-ID network on generated images, then fine-tune and test it in six
# settings that differ in the labels they may use. Everything is small, a network of 0.4 million parameters and one
# seed, so that it ends in minutes on two cores; the last cell shows how `benchmark` does the same in full.

# %%
import logging
import os
import shutil
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", module=r"(lightning|rich|tqdm)\.")  # hints to developers

import torch
from IPython.display import Image, Markdown, display
from lightning.pytorch import Trainer, seed_everything

from diffreid_lightning.cli import main
from diffreid_lightning.datasets import open_dataset
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.pipeline.graph import read_chain
from diffreid_lightning.registry import (
    DBSCAN,
    BackboneExport,
    CameraJaccardDistance,
    ClusterMemory,
    ClusterReport,
    ClusterSampler,
    PKSampler,
    RankLists,
    ReIDDataModule,
    RetrievalEvaluator,
    Subset,
    SupervisedReID,
    TrainView,
    UnlabeledDataModule,
    UnsupervisedReID,
)
from diffreid_lightning.visualization.grid import draw_samples

# DIFFREID_QUICKSTART=chains/quick makes everything small: to see that it runs, not for the numbers.
quick = os.environ.get("DIFFREID_QUICKSTART", "").split()
epochs, batches = (1, 4) if quick else (20, None)  # of a labeled training; None: all batches of an epoch
cluster_epochs = 1 if quick else 10  # of a training without labels, which embeds all images before each of them
root = Path("runs/notebooks_small/04" if quick else "runs/notebooks/04")
shutil.rmtree(root, ignore_errors=True)  # every run of this notebook begins anew
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)  # many trainings follow, each with the same lines
SIZE = (64, 32)

# %% [markdown]
# ## A Diff-Person
#
# Notebook 01's or notebook 03's, of people of MiniPerson's campus. Where neither has been run, the chain of notebook
# 01 makes one, which takes some minutes.

# %%
configs = ["chains/tour", *quick]
made = [read_chain(configs, {}).root / "select/diff_person", root.parent / "03/select/diff_person"]
if not any(folder.exists() for folder in made):
    assert main(["pipeline", *(word for name in configs for word in ("--config", name)), "--until", "select"]) == 0
diff_person = next(folder for folder in made if folder.exists())
manifest = Manifest.read(diff_person)
print(f"{diff_person}: {len(manifest)} images of {len(manifest.identities()[1])} people")
some = [manifest.images.image(name) for name in manifest.table["file_name"].to_pylist()[:10]]
draw_samples([("some of Diff-Person", some)])

# %% [markdown]
# ## How every training is done
#
# `source` is the campus by day, `target` the station by night; they share no person and no camera. Every number below
# is measured on the target's query and gallery. Diff-Person was made from campus people alone, so no setting gets a
# label of the target through it; `benchmark` marks rows where this is not so with a dagger.

# %%
source, target = "miniperson:campus", "miniperson:station"
for place in (source, target):
    images = open_dataset(place).manifest()
    train = [row["file_name"] for row in images.table.to_pylist() if row["split"] == "train"][::40]
    display(draw_samples([(place, [images.images.image(name) for name in train[:10]])]))

# %% [markdown]
# One function for all labeled trainings: a data module with P×K batches (P people, K images of each), a module with
# label-smoothed cross-entropy and triplet loss, a trainer. `BackboneExport` leaves the backbone as a timm folder,
# which the next training takes as `init_from`; `RetrievalEvaluator` measures mAP and Rank-k. With `val_share=None` the
# people of MiniPerson's validation split are never trained on: a subset would not reach them.


# %%
view = TrainView(pad=3, color=0.2, erasing=0.0)


def settings(init_from: str | None, length: int = epochs, rate: float = 1.5e-3) -> dict:
    """Return the arguments that all modules here share; the learning rate falls to zero over the length in epochs."""
    return {
        "backbone": "test_resnet",  # timm's smallest ResNet
        "image_size": SIZE,
        "init_from": init_from,
        "optimizer": lambda parameters: torch.optim.Adam(parameters, lr=rate, weight_decay=5e-4),
        "scheduler": lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, length),
    }


def fit(name: str, model, data, length: int = epochs) -> str:
    """Train, test on query and gallery, and return the folder of the backbone."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    callbacks = [RetrievalEvaluator(), BackboneExport()]
    if name.endswith("few-shot"):
        callbacks.append(RankLists(queries=4))
    if isinstance(model, UnsupervisedReID):
        callbacks.append(ClusterReport(rows=5))
    trainer = Trainer(
        default_root_dir=root / name, callbacks=callbacks, max_epochs=length, limit_train_batches=batches, devices=1,
        limit_val_batches=0, enable_model_summary=False, **quiet,
    )  # fmt: skip
    trainer.fit(model, data)
    measured = trainer.test(model, data, verbose=False)[0]
    results[name] = (measured["test/mAP"], measured["test/rank1"])
    print(f"{name}: mAP {results[name][0]:.1f}, Rank-1 {results[name][1]:.1f}")
    return str(root / name / "backbone")


def labeled(name: str, train, init_from: str | None) -> str:
    """Train on people whose identities are known, and test on the target."""
    seed_everything(0, verbose=False)  # before the module takes its random weights
    data = ReIDDataModule(
        train=train, test=target, image_size=SIZE, val_share=None, train_view=view, cache_images=True, num_workers=0,
        sampler=lambda labels: PKSampler(labels, min(16, len(set(labels))), images_per_identity=4),
    )  # fmt: skip
    return fit(name, SupervisedReID(**settings(init_from), warmup_epochs=2, warmup_factor=0.1), data)


results: dict[str, tuple[float, float]] = {}

# %% [markdown]
# ## Pre-train
#
# Generated images only. Tested as it is, this network has seen no real image at all.

# %%
starts = {"scratch": None, "Diff-Person": labeled("pretrain", str(diff_person), None)}

# %% [markdown]
# ## With labels of the target
#
# *Supervised* uses all training people. *Small-scale* keeps a share of the people with all their images, *few-shot* a
# share of everybody's images; `Subset` takes only training rows away, so the test is the same. Pre-training should
# matter most where there is least to learn from.

# %%
share = 0.3
for start, init_from in starts.items():
    labeled(f"{start}/supervised", target, init_from)
    labeled(f"{start}/small-scale", Subset(target, identities=share), init_from)
    labeled(f"{start}/few-shot", Subset(target, images=share), init_from)

# %% [markdown]
# ## With labels of the source alone
#
# *Direct transfer* trains on the campus and tests at the station, with no image of the station in between.

# %%
on_source = {start: labeled(f"{start}/direct transfer", source, init_from) for start, init_from in starts.items()}

# %% [markdown]
# ## Without labels of the target
#
# `UnlabeledDataModule` removes the identities before the module sees the images. `UnsupervisedReID` embeds them before
# each epoch, clusters them, and trains with the clusters as labels. *Adaptation* begins with the network that was
# trained on the source; *unsupervised* begins with the initialization, and a random one gives it poor clusters to
# begin with. Images of one camera resemble each other more than those of one person do, so neighbors are looked for in
# the same and in other cameras apart; that takes camera numbers. `JaccardDistance` does without.


# %%
def unlabeled(name: str, init_from: str | None) -> str:
    """Train on the target's images without their identities, and test on the target."""
    seed_everything(0, verbose=False)
    data = UnlabeledDataModule(
        target=target, image_size=SIZE, val_share=None, train_view=view, cache_images=True, num_workers=0,
        sampler=lambda labels: ClusterSampler(labels, clusters_per_batch=16, images_per_cluster=4, batches=20),
    )  # fmt: skip
    # The neighborhoods are about as large as the number of images of a person.
    distance = CameraJaccardDistance(k1_within=2, k1_across=6, k2_within=2, k2_across=3)
    clusterer = DBSCAN(distance, eps=0.5, min_samples=2)
    losses = [ClusterMemory(temperature=0.05, momentum=0.1)]
    model = UnsupervisedReID(**settings(init_from, cluster_epochs, rate=3.5e-4), clusterer=clusterer, losses=losses)
    return fit(name, model, data, cluster_epochs)


for start, init_from in starts.items():
    unlabeled(f"{start}/adaptation", on_source[start])
    unlabeled(f"{start}/unsupervised", init_from)

# %% [markdown]
# Look at clusters before numbers: one person in several clusters does little harm, several people in one cluster does.
# Clusters of a single camera say that the network still sees the place more than the person.

# %%
display(Image(filename=str(root / "Diff-Person/adaptation/clusters.png")))

# %% [markdown]
# ## The table

# %%
names = ["supervised", "small-scale", "few-shot", "unsupervised", "adaptation", "direct transfer"]
lines = ["| mAP / Rank-1 | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
for start in starts:
    numbers = ["{:.1f} / {:.1f}".format(*results[f"{start}/{name}"]) for name in names]
    lines.append(f"| {start} | " + " | ".join(numbers) + " |")
display(Markdown("\n".join(lines)))
print("Diff-Person alone, without a real image: {:.1f} / {:.1f}".format(*results["pretrain"]))

# %% [markdown]
# **This table is small.** One seed, one set of generated images, renders instead of photographs, a tiny network and
# few epochs; and the rows with Diff-Person took more steps than those from scratch. Differences of a few points mean
# nothing here. `docs/results` has measurements with seeds, equal steps and intervals (on renders, too).
#
# Some queries of the few-shot setting, from the worst to the best, each with its nearest gallery images.

# %%
display(Image(filename=str(root / "Diff-Person/few-shot/rank_lists_test.png")))

# %% [markdown]
# ## In full
#
# `benchmark` runs initializations × settings × datasets × seeds as resumable runs, with a row that trains on real
# images for as many steps, and prints paired intervals. `--list` shows the cells, each with its command. On a
# terminal:
#
#     python -m diffreid_lightning benchmark --config benchmark/quick --jobs 2         # small, minutes
#     python -m diffreid_lightning benchmark --config benchmark/miniperson --jobs 2    # three seeds, hours
#     python -m diffreid_lightning benchmark --config benchmark/paper --dry-run        # the paper's datasets

# %%
assert main(["benchmark", "--config", "benchmark/quick", "--only", "*/few-shot*/station/seed-0", "--list"]) == 0
