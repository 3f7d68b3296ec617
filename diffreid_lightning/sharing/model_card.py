"""Write the model card of a backbone or a personalized model: README.md with the hub's YAML header."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import yaml

from diffreid_lightning.backbones.timm_folder import read_timm_folder
from diffreid_lightning.backbones.timm_model import HUB_SCHEME, LOCAL_SCHEME
from diffreid_lightning.manifest.provenance import find_manifest_records, read_provenance
from diffreid_lightning.personalization.checkpoint import (
    LORA_FOLDER,
    PIPELINE_FOLDER,
    STUDENT_FOLDER,
    read_note,
    read_tokens,
)
from diffreid_lightning.run_summary import PROVENANCE_FILE
from diffreid_lightning.sharing.shared_folder import BACKBONE, Kind
from diffreid_lightning.storage.hub import is_hub_id

RESULTS_FILE = "results.csv"
RESULT_COLUMNS = ("stage", "dataset", "weights")  #: with which a table of ours begins
_MOST_RESULTS = 20
_TRAINING = ("steps", "epochs", "module", "converted_from")
_USE = (
    "For research on person re-identification. Not for identifying people without a legal basis, and not for tracking "
    "anybody.\nWeights trained on photographs of people are personal data; the terms of the training data hold for "
    "them as well."
)


def write_model_card(folder: Path, kind: Kind, repo_id: str, license: str | None) -> str:
    """Return the card as Markdown.

    Args:
        folder: the backbone or the personalized model.
        kind: what it is.
        repo_id: ``owner/name`` of the repository.
        license: the hub's identifier of the license; None for unknown.
    """
    facts, header, code = (_describe_backbone if kind is BACKBONE else _describe_personalized)(folder, repo_id)
    header = {"license": license or "unknown", **header}
    training = read_provenance(folder / PROVENANCE_FILE)
    training = training.get("training", training)
    facts += [f"{name}: {training[name]}" for name in _TRAINING if name in training]
    people = [] if kind is BACKBONE else sorted({each["source"] for each in read_note(folder)["identities"]})
    # The manifests of some records name their sources as ``names``, those of a personalized model not at all.
    named = [(each.get("sources") or each.get("names") or people, each) for each in find_manifest_records(training)]
    data = [f"{', '.join(map(str, names))}, content hash `{each['manifest']}`" for names, each in named]
    facts += [f"training data: {line}" for line in data] or ["training data: not recorded"]
    facts.append(f"license: {license or 'unknown'}")
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n",
        f"# {repo_id.partition('/')[2]}\n",
        "Written by diffreid_lightning, after Diffusion-ReID (Niu et al., arXiv 2406.06045).\n",
        *(f"- {fact}" for fact in facts),
        f"\n## Load it\n\n```python\n{code}```\n",
        *_results(folder.parent / RESULTS_FILE),
        f"## Responsible use\n\n{_USE}\n",
    ]
    return "\n".join(parts)


def _describe_backbone(folder: Path, repo_id: str) -> tuple[list[str], dict[str, Any], str]:
    opened = read_timm_folder(folder)
    noted = opened.provenance
    size = noted.get("image_size") or opened.config.image_size
    start = noted.get("training", {}).get("init_from")
    facts = [f"architecture: {opened.config.architecture}"]
    facts += [f"image size: {size[0]} × {size[1]} pixels (height × width)"] if size else []
    facts.append(f"initial weights: {'random' if start is None else _public_name(start)}")
    package = noted.get("registered_by")
    code = (f"import {package}\n" if package else "") + (
        f'import timm\n\nmodel = timm.create_model("hf-hub:{repo_id}", pretrained=True, num_classes=0).eval()\n'
    )
    if noted.get("edits") or noted.get("pooling", "native") != "native":
        code += "# provenance.json names the last stride and the pooling that give the features of the training.\n"
    header = {
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction",
        "tags": ["person-re-identification", "timm"],
    }
    return facts, header, code


def _describe_personalized(folder: Path, repo_id: str) -> tuple[list[str], dict[str, Any], str]:
    noted, (_, tokens) = read_note(folder), read_tokens(folder)
    base, sources = noted["base"]["model"], sorted({each["source"] for each in noted["identities"]})
    whole, student = (folder / PIPELINE_FOLDER).is_dir(), (folder / STUDENT_FOLDER).is_dir()
    facts = [
        f"base model: {_public_name(base)} (hash of its weights `{noted['base']['weights']}`)",
        f"identities: {len(noted['identities'])} of {', '.join(sources)}, one token each",
        f"prompt template: `{noted['template']}`",
    ]
    is_public = is_hub_id(base) and not Path(base).exists()
    header = {
        **({"base_model": base.partition("@")[0]} if is_public else {}),
        "library_name": "diffusers",
        "pipeline_tag": "text-to-image",
        "tags": ["person-re-identification", "diffusers", "text-to-image", *([] if whole else ["lora"])],
    }
    start = f'f"{{folder}}/{PIPELINE_FOLDER}"' if whole else f'"{base if is_public else "BASE"}"  # the base model'
    code = (
        f"import json\n\nfrom diffusers import AutoPipelineForText2Image{', LCMScheduler' if student else ''}\n"
        "from huggingface_hub import snapshot_download\n"
        f'from safetensors import safe_open\n\nfolder = snapshot_download("{repo_id}")\nbase = {start}\n'
        "pipeline = AutoPipelineForText2Image.from_pretrained(base)\n"
    )
    if (folder / LORA_FOLDER).is_dir():
        code += 'pipeline.load_lora_weights(f"{folder}/lora", adapter_name="people")\n'
    if student:
        code += (
            'pipeline.load_lora_weights(f"{folder}/student", adapter_name="student")\n'
            'pipeline.set_adapters(pipeline.get_list_adapters()["unet"])\n'
            "pipeline.scheduler = LCMScheduler.from_config(pipeline.scheduler.config)\n"
        )
    code += (
        'with safe_open(f"{folder}/tokens.safetensors", "pt") as file:\n'
        '    names = json.loads(file.metadata()["names"])\n'
        '    pipeline.load_textual_inversion(file.get_tensor("tokens"), token=names)\n'
    )
    if len(tokens) > 1:
        code += (
            '    second = {"tokenizer": pipeline.tokenizer_2, "text_encoder": pipeline.text_encoder_2}\n'
            '    pipeline.load_textual_inversion(file.get_tensor("tokens_2"), token=names, **second)\n'
        )
    few = ", num_inference_steps=4, guidance_scale=1" if student else ""
    return facts, header, code + f'image = pipeline(f"a photo of {{names[0]}}"{few}).images[0]\n'


def _public_name(source: str) -> str:
    """Shorten a local path to its last part: the folders of a computer do not belong on a card."""
    if source.startswith(HUB_SCHEME) or (is_hub_id(source) and not Path(source).exists()):
        return source
    return Path(source.removeprefix(LOCAL_SCHEME)).name


def _results(file: Path) -> list[str]:
    """Return the measured numbers beside the folder as a table; nothing where there are none."""
    if not file.is_file():
        return []
    with file.open(newline="", encoding="utf-8") as opened:
        rows = [row for row in csv.reader(opened) if row]
    if len(rows) < 2 or rows[0][: len(RESULT_COLUMNS)] != list(RESULT_COLUMNS):  # a table of something else
        return []
    rows = rows[: 1 + _MOST_RESULTS]
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return ["## Results\n", lines[0], "|" + "---|" * len(rows[0]), *lines[1:], ""]
