# %% [markdown]
# # Your own data, backbone and checkpoint
#
# What changes when you come with your own things: a folder of crops in a naming scheme of your own, another network
# from timm, and weights that another project has trained. Then what a trained network is for: features, a search, and
# a threshold from which two images count as the same person. Everything is made here from MiniPerson, in a few
# minutes.

# %%
import os
import shutil
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", module=r"(lightning|rich|tqdm)\.")  # hints to developers

import numpy as np
import timm
import torch
from IPython.display import Image, Markdown, display
from lightning.pytorch import LightningModule, Trainer, seed_everything

from diffreid_lightning.backbones import Backbone, fill_backbone, open_foreign, save_backbone
from diffreid_lightning.datasets import PersonFolder, open_dataset
from diffreid_lightning.deployment.embedding import ImageRows, embed, held_out_errors, open_images
from diffreid_lightning.deployment.feature_files import open_features
from diffreid_lightning.deployment.gallery_search import search
from diffreid_lightning.deployment.threshold_report import describe_thresholds, draw_thresholds, lay_out
from diffreid_lightning.deployment.trained_network import load_trained
from diffreid_lightning.registry import (
    BackboneExport,
    PKSampler,
    ReIDDataModule,
    RetrievalEvaluator,
    SupervisedReID,
    TrainView,
)
from diffreid_lightning.visualization.grid import draw_samples

# DIFFREID_QUICKSTART (any value) makes everything small: to see that it runs, not for the numbers.
small = bool(os.environ.get("DIFFREID_QUICKSTART"))
people, epochs = (24, 2) if small else (100, 20)
root = Path("runs/notebooks_small/05" if small else "runs/notebooks/05")
shutil.rmtree(root, ignore_errors=True)  # every run of this notebook begins anew
SIZE = (64, 32)

# %% [markdown]
# ## A folder of crops
#
# Written here, so that there is something to read: images of MiniPerson's station under names that no dataset has.
# Your folder takes this place; nothing needs to be renamed. `seen` are people to train on, `asked` and `archive`
# others, to search for and to search in.

# %%
crops = root / "crops"
station = open_dataset("miniperson:station").manifest()
folders = {"train": "seen", "query": "asked", "gallery": "archive"}
rows = [row for row in station.table.to_pylist() if row["split"] in folders and row["role"] == "identity"]
for split, folder in folders.items():
    mine = [row for row in rows if row["split"] == split]
    chosen = sorted({row["pid"] for row in mine})[: people if split == "train" else people // 2]
    for number, row in enumerate(row for row in mine if row["pid"] in chosen):
        name = f"visitor-{row['pid']:04d}--door-{row['camid']}--{number:05d}.jpg"
        (crops / folder).mkdir(parents=True, exist_ok=True)
        (crops / folder / name).write_bytes(station.images.read(row["file_name"]))
print(*sorted(path.relative_to(crops).as_posix() for path in crops.rglob("*.jpg"))[::150], sep="\n")

# %% [markdown]
# ## Read it
#
# `PersonFolder` takes a regular expression with the groups `pid` and `camera`, and folders for the splits. Look at
# counts and images before training: a pattern that reads the wrong number still reads numbers. Cameras matter, since a
# search is only hard, and only measured, across cameras.

# %%
dataset = PersonFolder(
    crops,
    pattern=r"visitor-(?P<pid>\d+)--door-(?P<camera>\d+)",
    train="seen",
    query="asked",
    gallery="archive",
    source="my_station",
)
manifest = dataset.manifest()
table = manifest.table.to_pylist()
for split in folders:
    here = [row for row in table if row["split"] == split]
    counts = [len({row[name] for row in here}) for name in ("pid", "camid")]
    print(f"{split:8} {len(here):4d} images, {counts[0]:3d} people, {counts[1]} cameras")
lines = []
for pid in sorted({row["pid"] for row in table})[:3]:
    here = [row for row in table if row["pid"] == pid][:8]
    title = f"person {pid}, cameras {', '.join(str(row['camid']) for row in here)}"
    lines.append((title, [manifest.images.image(row["file_name"]) for row in here]))
draw_samples(lines)

# %% [markdown]
# ## How a training is done
#
# A quarter of the training people is held out: their images give the threshold below, which would be too good on
# people whom the network has learnt. Query and gallery are read once, by `test`.


# %%
def data_of(train) -> ReIDDataModule:
    """Bring images for training, validation and test."""
    return ReIDDataModule(
        train=train,
        image_size=SIZE,
        val_share=0.25,
        sampler=lambda labels: PKSampler(labels, min(16, len(set(labels))), images_per_identity=4),
        train_view=TrainView(pad=3, color=0.2, erasing=0.0),
        num_workers=0,
    )


def module_of(backbone: str, **options) -> LightningModule:
    """Build a module around any timm model."""
    seed_everything(0, verbose=False)  # before it takes its random weights
    return SupervisedReID(
        backbone=backbone,
        image_size=SIZE,
        optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1.5e-3, weight_decay=5e-4),
        scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs),
        warmup_epochs=2,
        warmup_factor=0.1,
        **options,
    )


def trainer_of(name: str) -> Trainer:
    """Make a quiet trainer with a folder of its own."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(
        default_root_dir=root / name, callbacks=[RetrievalEvaluator(), BackboneExport()], max_epochs=epochs, devices=1,
        num_sanity_val_steps=0, check_val_every_n_epoch=epochs, enable_model_summary=False, **quiet,
    )  # fmt: skip


results: dict[str, tuple[float, float]] = {}


def run(name: str, model: LightningModule) -> None:
    """Train and test on the folder of crops."""
    trainer, data = trainer_of(name), data_of(dataset)
    trainer.fit(model, data)
    measured = trainer.test(model, data, verbose=False)[0]
    results[name] = (measured["test/mAP"], measured["test/rank1"])


# %% [markdown]
# ## Another backbone by its name
#
# Any name of timm works, with the stride and pooling that Re-ID wants set for you. With a network, `init_from="timm"`
# fetches its pretrained weights from the hub; here it starts from random ones.

# %%
print(timm.list_models("mobilenetv4*")[:6], "and", len(timm.list_models()) - 6, "more")
run("mobilenetv4_scratch", module_of("mobilenetv4_conv_small_050"))
run("resnet_scratch", module_of("test_resnet"))
for name, numbers in results.items():
    print("{}: mAP {:.1f}, Rank-1 {:.1f}".format(name, *numbers))

# %% [markdown]
# ## A checkpoint of another project
#
# In place of a download: a network is trained on MiniPerson's other domain and saved as torchreid saves its networks,
# a state dict under `state_dict`, with `module.` before the names and a classifier behind. LUPerson, fast-reid,
# TransReID, SOLIDER and others have forms of their own; `convert --help` lists them.

# %%
elsewhere = module_of("test_resnet", pooling="avg", last_stride=2)  # what torchreid's ResNets have
trainer_of("elsewhere").fit(elsewhere, data_of("miniperson:campus"))
tensors = {f"module.{name}": value for name, value in elsewhere.backbone.model.state_dict().items()}
tensors["module.classifier.weight"] = elsewhere.classifier.weight.detach()
torch.save({"state_dict": tensors, "epoch": epochs}, root / "model.pth.tar")

# %% [markdown]
# `open_foreign` reads plain tensors and nothing else: no code in the file is run. `fill_backbone` compares every name
# and shape and says what was left over; the backbone takes over the mean, stride and pooling that the weights were
# trained with. The result is a timm folder, the same kind that every training leaves.

# %%
checkpoint = open_foreign(root / "model.pth.tar", "torchreid")
backbone = Backbone("test_resnet", image_size=SIZE)
print(fill_backbone(backbone, checkpoint))
weights = save_backbone(backbone, root / "weights", provenance={"converted_from": "model.pth.tar", "form": "torchreid"})
print(*sorted(path.name for path in Path(weights).iterdir()))

# %%
run("resnet_converted", module_of("test_resnet", init_from=str(weights)))
lines = [f"| {name} | {numbers[0]:.1f} | {numbers[1]:.1f} |" for name, numbers in results.items()]
display(Markdown("\n".join(["| start | mAP | Rank-1 |", "|---|---|---|", *lines])))

# %% [markdown]
# One seed, few people and few epochs: enough to see that a training works, too little to compare networks.
#
# ## Features
#
# `load_trained` opens a run folder, and `embed` writes one row per image: its name, person and camera where known, and
# the feature. An interrupted call goes on where it stopped. Here people are known from the folder; `open_images` takes
# any folder, zip, table or single image in its place.

# %%
network = load_trained(root / "resnet_converted")
splits = manifest.numpy("split")
for split in ("query", "gallery"):
    made = embed(ImageRows(manifest.filter(splits == split), True), network, root / f"{split}.parquet", 128, 0)
    print(f"{made.images} features in {made.seconds:.1f} s: {made.path}")
one = embed(open_images(str(next((crops / "asked").iterdir()))), network, root / "one.parquet", 128, 0)
print(f"{one.images} feature of a single image: {one.path}")

# %% [markdown]
# ## Search
#
# Each query image is compared with the whole archive by cosine similarity. Green frames are the person who was asked
# for, red ones somebody else; in an archive of unknown people there are no frames, only similarities.

# %%
query, gallery = open_features(root / "query.parquet"), open_features(root / "gallery.parquet")
search(query, gallery, root / "found", top=10)
print(*(root / "found/matches.csv").read_text(encoding="utf-8").splitlines()[:4], sep="\n")
display(Image(filename=str(root / "found/rank_lists.png")))

# %% [markdown]
# ## A threshold
#
# A search always finds ten images; from which similarity on is it the same person? It is measured on the people held
# out of training: each threshold lets some pairs of two people pass (false matches) and misses some pairs of one
# person. The intervals are over people, and few people give wide ones.

# %%
errors = held_out_errors(network, data_of(dataset).val_set, 128, 0)
found = describe_thresholds(errors, fmr=[0.01, 0.05], fnmr=[0.1])
lines, note = lay_out(found)
lines = ["| " + " | ".join(line) + " |" for line in lines]
display(Markdown("\n".join([lines[0], "|---" * 4 + "|", *lines[1:]]) + f"\n\n{note}"))
draw_thresholds(errors, [point["threshold"] for point in found["thresholds"]], root / "thresholds.png")
display(Image(filename=str(root / "thresholds.png")))

# %% [markdown]
# The threshold of 1 % false matches, applied to the search: matches below it are dropped. It holds for this network
# and for images like these, and false alarms grow with the archive, since every query is compared with all of it. Read
# `docs/responsible_use.md` before a decision about a person rests on it.

# %%
threshold = found["thresholds"][0]["threshold"]
matches = np.genfromtxt(root / "found/matches.csv", delimiter=",", names=True, dtype=None, encoding="utf-8")
person = {row["file_name"]: row["pid"] for row in table}
passed = matches[matches["similarity"] >= threshold]
right = sum(person[str(row["query"])] == person[str(row["gallery"])] for row in passed)
print(f"similarity from {threshold:.3f} on: {len(passed)} of {len(matches)} matches are left, {right} of them right")
