# %% [markdown]
# # Filter generated images, and make Diff-Person
#
# A diffusion model draws some images that do not show the person who was asked for. This notebook trains a Re-ID
# network on the real people, asks it how surely it recognizes each drawn image, chooses a threshold by looking, and
# writes what passes as a dataset, Diff-Person. It goes on with the images of notebook 02 if they are there, and else
# draws a few.

# %%
import os
import shutil
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", module=r"(lightning|rich|tqdm)\.")  # hints to developers

import matplotlib.pyplot as plt
import numpy as np
import torch
from IPython.display import Image, Markdown, display
from lightning.pytorch import Trainer, seed_everything

from diffreid_lightning.datasets import DiffPerson, open_dataset
from diffreid_lightning.filtering.scored_manifest import ScoredFolder
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.registry import (
    CaptioningDataModule,
    CaptionWriter,
    ComposedGuidance,
    DiffPersonSelection,
    FixedThreshold,
    FoldNetworks,
    GeneratedImagesWriter,
    GenerationModule,
    IdentityQuantile,
    NearDuplicates,
    PKSampler,
    PromptsDataModule,
    ReaderCaptioner,
    ReIDDataModule,
    ReIDScorer,
    ScorerExport,
    ScorerTraining,
    ScoreWriter,
    ScoringDataModule,
    Subset,
    ThresholdWithFloorAndCap,
    TrainView,
)
from diffreid_lightning.visualization.grid import Cell, GridRow, draw_grid

# DIFFREID_QUICKSTART (any value) makes everything small: to see that it runs, not for the numbers.
small = bool(os.environ.get("DIFFREID_QUICKSTART"))
runs = Path("runs/notebooks_small" if small else "runs/notebooks")
root = runs / "03"
shutil.rmtree(root, ignore_errors=True)  # every run of this notebook begins anew
seed_everything(0)


def trainer(folder: Path, *callbacks, **options) -> Trainer:
    """Make a quiet trainer; results are what the callbacks write into the folder."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(
        default_root_dir=folder, callbacks=list(callbacks), devices=1, enable_model_summary=False, **quiet, **options
    )


# %% [markdown]
# ## The images
#
# Two manifests are needed: the real images of the people (captioned), and the drawn ones. Without notebook 02, tiny-sd
# draws people from their descriptions alone. It has never seen them, so fewer of its images will be recognized.

# %%
captioned, generated = runs / "02/caption", runs / "02/generate"
if not (captioned / "metadata.parquet").exists() or not (generated / "metadata.parquet").exists():
    captioned, generated = root / "caption", root / "generate"
    source = CaptioningDataModule(Subset("miniperson", identities=4 if small else 24), batch_size=64)
    trainer(root, CaptionWriter(str(captioned))).predict(ReaderCaptioner(), source, return_predictions=False)
    plan = PromptsDataModule(str(captioned), "rendered", images_per_identity=4 if small else 8, image_size=(128, 64))
    artist = GenerationModule(
        "tiny-sd", image_size=(128, 64), steps=4 if small else 12, guidance=4.0, diversity=ComposedGuidance()
    )
    trainer(root, GeneratedImagesWriter(str(generated))).predict(artist, plan, return_predictions=False)
real, drawn = Manifest.read(captioned), Manifest.read(generated)
print(f"{len(real)} real images and {len(drawn)} drawn ones of {len(drawn.identities()[1])} people")

# %% [markdown]
# ## Train the scorer
#
# An ordinary Re-ID network with a classifier of the real people; its probability for the intended person will be the
# *confidence*. Networks are sure of what they were trained on, so `FoldNetworks` trains two more of them, each without
# a part of the images, and fits a temperature on the images that each has not seen. No drawn image is used here.

# %%
epochs = 4 if small else 40
data = ReIDDataModule(
    train=str(captioned),
    image_size=(64, 32),
    val_share=None,  # train on all of them: it can only score people whom it knows
    sampler=lambda labels: PKSampler(labels, identities_per_batch=4 if small else 16, images_per_identity=4),
    train_view=TrainView(pad=3, color=0.2, erasing=0.0),
    num_workers=0,
)
model = ScorerTraining(
    backbone="test_resnet",  # timm's smallest ResNet; any other timm name works
    image_size=(64, 32),
    calibration=FoldNetworks(folds=2),
    optimizer=lambda parameters: torch.optim.Adam(parameters, lr=1.5e-3, weight_decay=5e-4),
    scheduler=lambda optimizer: torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs),
    warmup_epochs=2,
    warmup_factor=0.1,
)
training = trainer(root / "score", ScorerExport(), max_epochs=epochs, limit_val_batches=0)
training.fit(model, data)
print({name: round(float(value), 3) for name, value in training.callback_metrics.items()})

# %% [markdown]
# ## Score
#
# `ReIDScorer` gives each drawn image three numbers: the confidence, the cosine similarity to the person's centroid,
# and the margin by which that centroid is nearer than the nearest other one. It also notes the nearest real image, in
# pixels, to find images that were copied from the training set instead of drawn.

# %%
scorer = ReIDScorer(str(root / "score/scorer"))
print(scorer.calibration_text)
scoring = ScoringDataModule(str(generated), image_size=(64, 32), num_workers=0)
trainer(root, ScoreWriter(str(root / "scored"))).predict(scorer, scoring, return_predictions=False)
scored = Manifest.read(root / "scored")
for row in scored.table.to_pylist()[:5]:
    print(Path(row["file_name"]).name, {name: round(row[name], 3) for name in ("confidence", "similarity", "margin")})

# %% [markdown]
# ## Look at the distribution
#
# Many images are clearly right or clearly wrong, and a threshold decides about those between. The second curve says
# what a threshold costs: the share of images that is left, and the share of people of whom at least one image is left.

# %%
confidence, (labels, people) = scored.numpy("confidence"), scored.identities()
thresholds = np.linspace(0, 1, 51)
left = [(confidence >= each).mean() for each in thresholds]
present = [len(np.unique(labels[confidence >= each])) / len(people) for each in thresholds]
figure, (one, two) = plt.subplots(1, 2, figsize=(9, 3), layout="constrained")
one.hist(confidence, bins=25, range=(0, 1), color="#1f4e79")
one.set(xlabel="confidence", ylabel="images")
two.plot(thresholds, left, label="images left")
two.plot(thresholds, present, label="people left")
two.set(xlabel="threshold", ylabel="share")
two.legend(frameon=False)
plt.show()

# %% [markdown]
# Numbers alone do not say which threshold is right: look at images along the scale, each above a real image of the
# person who was meant. The threshold belongs where the drawn images begin to show that person.

# %%
order = np.argsort(confidence)
picked = order[np.linspace(0, len(order) - 1, 10).round().astype(int)]
names, real_names = scored.table["file_name"].to_pylist(), real.table["file_name"].to_pylist()
real_labels, real_people = real.identities()
meant = [np.flatnonzero(real_labels == real_people.index(people[labels[row]]))[0] for row in picked]
draw_grid(
    [
        GridRow(
            "drawn, with the confidence",
            [Cell(scored.images.image(names[row]), words=[f"{confidence[row]:.2f}"]) for row in picked],
        ),
        GridRow("the person who was meant", [Cell(real.images.image(real_names[row])) for row in meant]),
    ],
    size=(64, 128),
)

# %% [markdown]
# ## Compare rules
#
# Rules apply in order, each dropped image keeps a reason, and nothing is scored again. A fixed threshold takes most
# images from people who are easy to recognize; a floor keeps the best of everybody, and a quantile keeps the same
# share of everybody. `NearDuplicates` first drops copies, of real images and of better drawn ones.

# %%
# The paper's kind of threshold; where training was short all confidences are low, and the median stands in for it.
threshold = 0.5 if (confidence >= 0.5).mean() > 0.1 else float(np.median(confidence))
rules = {
    "fixed threshold": [NearDuplicates(), FixedThreshold(threshold)],
    "floor and cap": [NearDuplicates(), ThresholdWithFloorAndCap(threshold, floor=1, cap=6)],
    "half of everybody": [NearDuplicates(), IdentityQuantile(0.5)],
}
for name, chosen in rules.items():
    report = DiffPersonSelection(str(root / "scored"), chosen, out=str(root / "tried")).run()
    print(f"{name:18} kept {report.kept:4d} of {report.images}: {report.after}; lost {len(report.lost)} people")

# %% [markdown]
# ## Diff-Person
#
# The final selection leaves three folders: `diff_person` (the dataset), `rejected` (a manifest of what was dropped,
# with reasons) and `report` (tables and pictures). A selection into the same folder replaces the one before.

# %%
selection = DiffPersonSelection(
    str(root / "scored"), rules["fixed threshold"], out=str(root / "select"), title="Diff-Person of MiniPerson"
)
print(selection.words(selection.run()))
for name in ("histogram", "kept", "rejected"):
    if (root / f"select/report/{name}.png").exists():
        display(Image(filename=str(root / f"select/report/{name}.png")))

# %% [markdown]
# The dataset card is written from the numbers: sources, generators, rules, images per person, and how near the kept
# images are to real ones. Fields that only you can fill in, such as the license, are left open.

# %%
card = (root / "select/diff_person/README.md").read_text(encoding="utf-8")
display(Markdown(card.partition("\n---\n")[2]))

# %% [markdown]
# ## Open it again
#
# A path is enough: the reader is found by the layout. The rows carry the real people's identities, so a training on
# `[diff_person, market]` merges both. The folder also opens with the `imagefolder` loader of Hugging Face `datasets`.

# %%
dataset = open_dataset(root / "select/diff_person")
assert isinstance(dataset, DiffPerson)
manifest = dataset.manifest()
print(dataset.description, "|", manifest)
training_set = ReIDDataModule(train=dataset, image_size=(64, 32), val_share=0.0).train_set
print(f"{len(training_set)} images of {len(training_set.rows.identities)} people to pre-train on (notebook 04)")
reasons = Manifest.read(root / "select/rejected").table["reason"].to_pylist()
print({reason: reasons.count(reason) for reason in dict.fromkeys(reasons)})
gap = ScoredFolder.read(root / "scored").real_gap
print(f"median pixel distance between real images: {gap[2]:.3f}, to the nearest real image: ", end="")
print(f"{np.median(manifest.numpy('real_distance')):.3f}")
