# %% [markdown]
# # Personalize and generate, in Python
#
# The first half of the method with Lightning's `Trainer` and the package's classes: put the images of a few people
# into words, teach a small diffusion model who they are, and let it draw more of them in three ways. Everything is
# embedded (the renders of MiniPerson, the model tiny-sd); no network, account or GPU is needed. It takes some minutes
# on two cores.

# %%
import json
import os
import shutil
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", module=r"(lightning|rich|tqdm)\.")  # hints to developers

from IPython.display import Image, display
from lightning.pytorch import Trainer, seed_everything
from lightning.pytorch.callbacks import EMAWeightAveraging

from diffreid_lightning.diffusion.prompt_template import PromptTemplate
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.registry import (
    CaptioningDataModule,
    CaptionWriter,
    ComposedGuidance,
    ContactSheet,
    FineGrainedPrior,
    FreeTokens,
    GeneratedImagesWriter,
    GenerationModule,
    IdentitySheets,
    LoRA,
    Personalization,
    PersonalizationDataModule,
    PersonalizationExport,
    PromptsDataModule,
    ReaderCaptioner,
    RowAdamW,
    SDEdit,
    Subset,
    WordsOnly,
)
from diffreid_lightning.visualization.grid import draw_samples

# DIFFREID_QUICKSTART (any value) makes everything small: to see that it runs, not for the pictures.
small = bool(os.environ.get("DIFFREID_QUICKSTART"))
people, epochs, steps = (4, 2, 4) if small else (24, 20, 12)
root = Path("runs/notebooks_small/02" if small else "runs/notebooks/02")
shutil.rmtree(root, ignore_errors=True)  # every run of this notebook begins anew
seed_everything(0)


def trainer(folder: Path, *callbacks, **options) -> Trainer:
    """Make a quiet trainer; results are what the callbacks write into the folder."""
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    return Trainer(
        default_root_dir=folder, callbacks=list(callbacks), devices=1, enable_model_summary=False, **quiet, **options
    )


# %% [markdown]
# ## Captions
#
# A data module brings images, a module predicts, a writer leaves a *manifest*: a Parquet table with a row per image,
# which the next stage reads. `Subset` keeps a few training people; later stages read its captioned rows and so never
# see another person. `ReaderCaptioner` reads renders with a small network of the package; for photographs
# `TransformersCaptioner` takes BLIP-2 in its place.

# %%
data = CaptioningDataModule(Subset("miniperson", identities=people), batch_size=64)
trainer(root, CaptionWriter(str(root / "caption"))).predict(ReaderCaptioner(), data, return_predictions=False)

# %% [markdown]
# Words on which most images of a person agree are the *description* and belong to the identity; the rest, view and
# light for example, are the *circumstances* of one image. The separation lets a prompt change the one and keep the
# other.

# %%
captioned = Manifest.read(root / "caption")
rows = captioned.table.to_pylist()
for row in rows[:6]:
    print(f"{row['pid']:4d}  {row['description']}  |  {row['circumstances']}")
first = [row for row in rows if row["pid"] == rows[0]["pid"]]
draw_samples([(first[0]["description"], [captioned.images.image(row["file_name"]) for row in first[:8]])])

# %% [markdown]
# ## Personalize
#
# Each person gets a word of their own with two trained vectors, and a LoRA changes the denoiser a little. Beside the
# real images it trains on *prior images*, which the untouched model drew from the same prompts without names: they
# keep it from forgetting what other people look like. Both the training images and the prior images are encoded once
# and cached.

# %%
template = "{identity}, {description}, {circumstances}"
data = PersonalizationDataModule(
    source=str(root / "caption"),
    template=template,
    image_size=(128, 64),
    batch_size=20,
    prior=FineGrainedPrior(
        images_per_identity=1,
        steps=4 if small else 16,
        scheduler="DPMSolverMultistepScheduler",
        cache_dir=str(root / "cache/prior"),
    ),
    prior_batch_size=2,
    cache_dir=str(root / "cache/latents"),
)
model = Personalization(
    model="tiny-sd",
    tokens=FreeTokens(vectors=2, word="person"),
    fine_tuning=LoRA(rank=16),
    image_size=(128, 64),
    snr_gamma=None,  # 5.0 suits Stable Diffusion 1.5; with tiny-sd's noise schedule it would nearly disable the prompt
    optimizer=lambda parameters: RowAdamW(parameters, lr=1e-3, weight_decay=1e-2),
    token_lr=0.1,
    warmup_steps=2 if small else 20,
)

# %% [markdown]
# `PersonalizationExport` leaves a folder that stock diffusers can load too; `IdentitySheets` draws the people without
# circumstances, always from the same noise. The averaged weights (EMA) are exported, and the last sheet shows them.

# %%
trainer(
    root / "personalize",
    EMAWeightAveraging(decay=0.95),
    PersonalizationExport(),
    IdentitySheets(identities=4, images=4, every_n_epochs=None if small else 5, steps=steps),
    max_epochs=epochs,
    gradient_clip_val=1.0,
).fit(model, data)
personalized = root / "personalize/personalized"
print(json.dumps(json.loads((personalized / "identities.json").read_text(encoding="utf-8"))["identities"][0], indent=1))

# %% [markdown]
# The first and the last sheet: real images left, drawn ones right. Clothes and build should come closer to the person
# from sheet to sheet. Where they do not, train longer, or give each person more vectors.

# %%
sheets = sorted((root / "personalize/samples").glob("*.png"))
for sheet in dict.fromkeys([sheets[0], sheets[-1]]):
    print(sheet.stem)
    display(Image(filename=str(sheet)))

# %% [markdown]
# ## Generate, with three kinds of diversity
#
# A pre-training set needs the same person under other views, places and lights. `PromptsDataModule` plans them: every
# image has a number, attributes from a vocabulary, and a seed of its own, so that the plan of one person does not
# depend on the others. The *strategy* decides how the attributes enter the denoising:
#
# - `ComposedGuidance`: identity and attributes are two prompts; the second one guides while the layout is decided;
# - `WordsOnly`: the attributes are words in the one prompt;
# - `SDEdit`: starts from a noisy real image instead of pure noise, and keeps that image's view and place.


# %%
def generate(name: str, strategy, identities: int | None, **options) -> Manifest:
    """Draw images of the first people by one strategy, with a contact sheet beside them."""
    data = PromptsDataModule(
        source=str(root / "caption"),
        vocabulary="rendered",  # phrases for tiny-sd; "default" suits Stable Diffusion
        images_per_identity=4 if small else 8,
        identities=identities,
        image_size=(128, 64),
        **options,
    )
    module = GenerationModule(
        model=str(personalized), image_size=(128, 64), steps=steps, guidance=4.0, diversity=strategy
    )
    print(f"{name}: {data.rows} images, {module.evaluations} evaluations of the denoiser each")
    writer = GeneratedImagesWriter(str(root / name))
    trainer(root, writer, ContactSheet(identities=4, height=128)).predict(module, data, return_predictions=False)
    return Manifest.read(root / name)


compared = 2 if small else 6
made = {
    "generate": generate("generate", ComposedGuidance(), None),  # of everybody: notebook 03 goes on with these
    "words_only": generate("words_only", WordsOnly(), compared),
    "sdedit": generate("sdedit", SDEdit(strength=0.7), compared, references=True),
}

# %% [markdown]
# One person by the three strategies, the same numbers of the plan from left to right. The real images come first.

# %%
pid = rows[0]["pid"]
real = [captioned.images.image(row["file_name"]) for row in rows if row["pid"] == pid]
lines = [("real", real[:8])]
for name, manifest in made.items():
    names = [row["file_name"] for row in manifest.table.to_pylist() if row["pid"] == pid]
    lines.append((name, [manifest.images.image(each) for each in names[:8]]))
draw_samples(lines)

# %% [markdown]
# The contact sheets, with what was asked for below each image (for SDEdit: the real image it began from). Look for two
# failures: the person changes with the attribute, or the attribute is not there. The first calls for less weight on
# the attributes or a shorter window, the second for more.

# %%
for name in made:
    print(name)
    display(Image(filename=str(root / name / "contact_sheet.png")))

# %% [markdown]
# ## The manifest
#
# The images carry Market-1501's names; the manifest says the rest. `source`, `partition` and `pid` are the real
# person's, so that training on both merges them; `camid` is a camera that no real image has. `prompt`, `attributes`,
# `seed` and `generator` (a hash of the model) say how to draw the image again; `caption` has no token and suits any
# other model.

# %%
row = made["generate"].table.to_pylist()[0]
for name in ("file_name", "source", "pid", "camid", "split", "caption", "prompt", "attributes", "seed", "generator"):
    print(f"{name:10}  {row[name]}")

# %% [markdown]
# Manifests also know where they come from: the parents are content hashes of the tables that were read and that the
# model was trained on. Which of these images show their person well enough is the question of notebook 03.

# %%
print(made["generate"])
print("made from the captions above:", captioned.content_hash in made["generate"].parents)
print("prompt without a token:", PromptTemplate(template).without_identity()(description="a man in a red coat"))
