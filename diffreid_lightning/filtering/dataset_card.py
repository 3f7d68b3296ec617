"""Write the dataset card of Diff-Person: README.md with the Hub's YAML header."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import yaml

from diffreid_lightning.filtering.statistics import SelectionReport

TO_FILL = "TO BE FILLED IN"
_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
_MOST_VALUES = 100  # of an attribute, listed one by one


@dataclass(frozen=True)
class Audit:
    """Distances of generated images to real training images; see :mod:`~diffreid_lightning.filtering.copy_search`.

    Args:
        before: (M,) distances of all generated images to their nearest real one, 0 to 1.
        after: (K,) those of the selected ones.
        limit: distances below it count as a near-copy.
        real_gap: quantiles 0.01, 0.05, 0.5 of the distance from a real image to the nearest other real one, or empty.
    """

    before: npt.NDArray[np.float64]
    after: npt.NDArray[np.float64]
    limit: float
    real_gap: Sequence[float]

    @property
    def near_copies(self) -> tuple[float, float]:
        """Share of near-copies before and after selection, 0 to 1."""
        return float((self.before < self.limit).mean()), float((self.after < self.limit).mean())


@dataclass(frozen=True)
class Card:
    """Content of a card.

    Args:
        title: the dataset's name.
        license: an identifier of the Hub's list; None leaves it to be filled in.
        report: the selection's numbers.
        rules: the rules that were applied, in words.
        sources: images by source.
        generators: images by the generator's content hash.
        seeds: smallest and largest seed, and the number of those whose noise is distinct.
        cameras: camera number of the generated images, by source.
        audit: None if the nearest real images are unknown.
        pictures: names of pictures beside the card: ``histogram``, and ``nearest_real`` if it could be drawn.
        scored: content hash of the scored manifest.
        calibration: description of the calibration; "" if unknown.
    """

    title: str
    license: str | None
    report: SelectionReport
    rules: Sequence[str]
    sources: Mapping[str, int]
    generators: Mapping[str, int]
    seeds: tuple[int, int, int]
    cameras: Mapping[str, Sequence[int]]
    audit: Audit | None
    pictures: Mapping[str, str]
    scored: str
    calibration: str


def write_card(card: Card) -> str:
    """Return the card as Markdown."""
    parts = [
        _header(card),
        f"# {card.title}\n",
        _introduction(card),
        _counts(card),
        _selection(card),
        _coverage(card),
        _provenance(card),
        _audit(card),
        _use(card),
    ]
    return "\n".join(parts)


def _header(card: Card) -> str:
    size = next((name for limit, name in _SIZES if card.report.kept < limit), "10M<n<100M")
    header = {
        "pretty_name": card.title,
        "license": card.license or "other",
        **({} if card.license else {"license_name": TO_FILL, "license_link": TO_FILL}),
        "task_categories": ["image-classification", "image-feature-extraction"],
        "tags": ["person-re-identification", "synthetic", "diffusion"],
        "size_categories": [size],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": ["metadata.parquet", "images/**"]}]}
        ],
    }
    return f"---\n{yaml.safe_dump(header, sort_keys=False, allow_unicode=True)}---\n"


def _introduction(card: Card) -> str:
    people = card.report.after.identities
    return f"""Images of known people that a diffusion model generated and the rules below kept by the scores of a Re-ID
network, for pre-training person re-identification, after Diffusion-ReID (Niu et al., arXiv 2406.06045):
{card.report.kept:,} images of {people:,} identities.

```python
from datasets import load_dataset

people = load_dataset("imagefolder", data_dir="diff_person", data_files="**", split="train")
```

```bash
python -m diffreid_lightning fit --data.train '[REAL,diff_person]' --data.sampler.init_args.generated_share 0.5
python -m diffreid_lightning data export diff_person --format market1501 --out diff_person_market
```

An identity is (`source`, `partition`, `pid`): person 7 of one source is not person 7 of another. `camid` of a generated
image is no camera; it is a number beyond the cameras of the images they were made from, so that none of them passes for
one of those: {_numbers(card.cameras)}.
"""


def _counts(card: Card) -> str:
    report = card.report
    rows = [_row(source, f"{count:,}") for source, count in card.sources.items()]
    return "\n".join(
        [
            "## Counts\n",
            "| | identities | images | per identity: fewest / median / most |",
            "|---|---|---|---|",
            f"| generated | {report.before.identities:,} | {report.images:,} | {report.before.spread} |",
            f"| selected | {report.after.identities:,} | {report.kept:,} | {report.after.spread} |",
            "",
            "| source | selected images |",
            "|---|---|",
            *rows,
            "",
        ]
    )


def _selection(card: Card) -> str:
    report = card.report
    reasons = [_row(reason, f"{count:,}") for reason, count in report.main_reasons.items()]
    picture = f"![distribution of the scores]({card.pictures['histogram']})\n"
    return "\n".join(
        [
            "## Selection\n",
            f"Kept: {100 * report.kept_share:.1f} % of the generated images. Identities of which none was kept: "
            f"{len(report.lost):,}. Rules, in order:\n",
            *(f"- `{rule}`" for rule in card.rules),
            "",
            picture,
            "| reason | images |",
            "|---|---|",
            *reasons,
            "",
            "`confidence` is the probability that a Re-ID network trained on the real people gives to the intended "
            "one, `similarity`\nthe cosine to that person's centroid, `margin` how much nearer it is than the nearest "
            "other; `consistency` is the\nprobability of the label by the other generated images, whoever they show.\n",
            f"Calibration of the confidence: {card.calibration}.\n" if card.calibration else "",
            f"Variety: {report.variety}.\n" if report.variety else "",
            *_regenerate(report),
        ]
    )


def _regenerate(report: SelectionReport) -> list[str]:
    if not report.regenerate:
        return []
    words = "Identities that were dropped as a whole and should be generated again"
    return [f"{words}, {len(report.regenerate):,}:\n", *(f"- {line}" for line in report.list_regenerate()), ""]


def _coverage(card: Card) -> str:
    if not card.report.coverage:
        return "## Attributes\n\nThe images were generated without attributes.\n"
    lines = ["## Attributes\n", "| attribute | value | generated | selected |", "|---|---|---|---|"]
    many = {name: counts for name, counts in card.report.count_values().items() if counts[0] > _MOST_VALUES}
    rows = [(*pair, *counts) for pair, counts in card.report.coverage.items() if pair[0] not in many]
    rows += [(name, "(number of values)", *counts) for name, counts in many.items()]
    lines += [_row(name, value, f"{before:,}", f"{after:,}") for name, value, before, after in sorted(rows)]
    return "\n".join([*lines, ""])


def _row(*cells: object) -> str:
    """Write a line of a table; phrases may hold the character that parts its cells."""
    return "| " + " | ".join(str(cell).replace("|", "\\|") for cell in cells) + " |"


def _provenance(card: Card) -> str:
    low, high, distinct = card.seeds
    lines = ["## Where it comes from\n"]
    lines += [
        f"- generator `{name}` (hash of its weights): {count:,} images" for name, count in card.generators.items()
    ]
    lines += [
        f"- seeds from {low} to {high}, {distinct:,} distinct; columns `seed` and `prompt` have each image's own",
        f"- scored manifest `{card.scored}`",
        f"- license of the images of {', '.join(card.sources)}: {TO_FILL}",
        f"- license of the base model: {TO_FILL}",
        "",
    ]
    return "\n".join(lines)


def _audit(card: Card) -> str:
    title = "## Memorization\n"
    if card.audit is None:
        return f"{title}\nNot measured: the manifest does not say how near real images are.\n"
    audit = card.audit
    before, after = audit.near_copies
    quantiles = np.quantile(audit.after, [0, 0.01, 0.05, 0.5])
    lines = [
        title,
        "Distance of each image to the nearest real training image, mirrored or not: root mean square difference of "
        "32 × 16\nthumbnails, 0 to 1 (after Carlini et al., arXiv 2301.13188); columns `real_distance` and\n"
        "`nearest_real`.\n",
        "| | nearest | 1 % | 5 % | median |",
        "|---|---|---|---|---|",
        "| selected images to real ones | " + " | ".join(f"{value:.4f}" for value in quantiles) + " |",
    ]
    if len(audit.real_gap) == 3:
        lines.append("| real images to other real ones | | " + " | ".join(f"{v:.4f}" for v in audit.real_gap) + " |")
    lines += [
        "",
        f"Near-copies (nearer than {audit.limit:g}): {100 * before:.2f} % of the generated images, "
        f"{100 * after:.2f} % of the selected ones.\n",
    ]
    if "nearest_real" in card.pictures:
        lines.append(
            f"The selected images nearest to real ones, each left of its real image:\n\n"
            f"![nearest pairs]({card.pictures['nearest_real']})\n"
        )
    else:
        lines.append("The real images were not at hand when this card was written, so no pairs are shown.\n")
    return "\n".join(lines)


def _use(card: Card) -> str:
    return f"""## Intended use and limits

For research on pre-training person re-identification. Not for identifying people, and not for tracking anybody.

- The images show people of {", ".join(card.sources)}: whatever those datasets' agreements forbid with the real images
  is to be taken as forbidden with these.
- A label says whom an image was meant to show; `confidence` says how surely a network recognized that person in it. The
  network errs, and it prefers images like those it was trained on: views and light that it finds hard are rejected
  more often (see the attributes). Near-copies are looked for among images of one identity, not across identities.
- Generated clothes, faces and places follow the biases of the base model and of the sources.
- Numbers reached by pre-training on these images do not count as results without the real identities' labels: the
  generator and the filter have seen them.
"""


def _numbers(cameras: Mapping[str, Sequence[int]]) -> str:
    return "; ".join(f"{source}: {', '.join(map(str, numbers))}" for source, numbers in cameras.items())
