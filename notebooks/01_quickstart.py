# %% [markdown]
# # Diffusion-ReID, from captions to mAP
#
# The whole method on the embedded data: put the images of a few known people into words, teach a small diffusion model
# who they are, let it draw more of them, keep what a Re-ID network recognizes, pre-train on that and fine-tune. No
# network, no account and no GPU are needed; the chain takes some minutes on two cores.
#
# Every stage is an ordinary command with a config of its own (`configs/stages/`). A stage whose input, config and
# code are unchanged is skipped, so running a cell again costs seconds.

# %%
import os

from IPython.display import Image, Markdown, display

from diffreid_lightning.cli import main
from diffreid_lightning.manifest.manifest import Manifest
from diffreid_lightning.pipeline.graph import read_chain

# DIFFREID_QUICKSTART=chains/quick makes everything small: for looking around, not for the pictures.
configs = ["chains/tour", *os.environ.get("DIFFREID_QUICKSTART", "").split()]
chain = [word for name in configs for word in ("--config", name)]
root = read_chain(configs, {}).root


def show(picture: str) -> None:
    display(Image(filename=str(root / picture)))


# %% [markdown]
# ## The plan

# %%
assert main(["pipeline", *chain, "--dry-run"]) == 0

# %% [markdown]
# ## Captions
#
# Words on which an identity's images agree describe the person; what varies describes the image.

# %%
assert main(["pipeline", *chain, "--until", "caption"]) == 0

# %%
captioned = Manifest.read(root / "caption")
for row in captioned.table.to_pylist()[:5]:
    print(f"{row['pid']:4d}  {row['description']}  |  {row['circumstances']}")

# %% [markdown]
# ## Personalize and generate
#
# Each row of the sheet is one person: real images first, then drawn ones under the attribute that was asked for.

# %%
assert main(["pipeline", *chain, "--until", "generate"]) == 0

# %%
show("generate/contact_sheet.png")

# %% [markdown]
# ## Score and select
#
# A Re-ID network that was trained on the same real people says how surely it recognizes each drawn one. The threshold
# can be moved without scoring again: `python -m diffreid_lightning select --help`.

# %%
assert main(["pipeline", *chain, "--until", "select"]) == 0

# %%
show("select/report/histogram.png")
for name in ("kept", "rejected"):
    if (root / f"select/report/{name}.png").exists():
        show(f"select/report/{name}.png")

# %% [markdown]
# The selected images are a dataset, Diff-Person, with a card. It also opens with the stock `imagefolder` of Hugging
# Face `datasets`.

# %%
card = (root / "select/diff_person/README.md").read_text(encoding="utf-8")
display(Markdown(card.partition("\n---\n")[2]))

# %% [markdown]
# ## Pre-train, fine-tune, evaluate
#
# Query and gallery are read here for the first time, once for each row of the table.

# %%
assert main(["pipeline", *chain]) == 0

# %% [markdown]
# Queries over the whole range of average precision, each with its ten nearest: right green, wrong red.

# %%
show("transfer/fit-001/rank_lists_test.png")
