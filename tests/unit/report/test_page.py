"""The page: all parts of a chain, nothing from elsewhere, readable by screen reader and in both color schemes."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffreid_lightning.benchmark.job_records import Record
from diffreid_lightning.cli import main
from diffreid_lightning.errors import UserError
from diffreid_lightning.pipeline.fingerprints import record_file
from diffreid_lightning.report import benchmark_section, selection_section
from diffreid_lightning.report.identity_strips import draw_strips
from diffreid_lightning.report.page import write_report
from diffreid_lightning.report.picture_budget import PictureBudget
from diffreid_lightning.report.subjects import order_stages
from diffreid_lightning.run_summary import RunSummary
from tests.unit.report.conftest import HOSTILE, REASON, make_manifest, make_run, save_image

#: Of 70 and 80: Student's t for one degree of freedom is 12.706, the standard error of two values half their distance.
INTERVAL = f"{75 - 12.706 * 5:.1f} to {75 + 12.706 * 5:.1f}"
TEMPLATES = Path(selection_section.__file__).parent / "templates"


class Outline(HTMLParser):
    """What a screen reader goes by, and every address."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.headings: list[tuple[int, str]] = []
        self.faults: list[str] = []
        self.ids: list[str] = []
        self.labels = 0
        self.tables = [""]
        self.empty_heading = False
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        given = dict(attrs)
        self.ids += [given["id"] or ""] if "id" in given else []
        self.labels += tag == "label"
        if re.fullmatch("h[1-6]", tag):
            self.headings.append((int(tag[1]), ""))
        if tag == "table":
            self.tables.append("named" if "aria-label" in given else "")
        self.empty_heading = tag == "th"
        if tag == "caption":
            self.tables[-1] = "named"
        wrong = {
            "image without words": tag == "img" and not given.get("alt"),
            "heading cell without scope": tag == "th" and given.get("scope") not in ("row", "col"),
            "control without label": tag in ("select", "input") and not self.labels,
            "external source": "src" in given and not re.match(r"data:|index\.js", given["src"] or ""),
            "external link": "href" in given and not (given["href"] or "").startswith("#"),
            "scrolling part that the keyboard cannot reach": given.get("class") == "scroll" and "tabindex" not in given,
        }
        self.faults += [f"{fault}: {tag} {given}" for fault, is_wrong in wrong.items() if is_wrong]

    def handle_endtag(self, tag: str) -> None:
        self.labels -= tag == "label"
        if tag == "th" and self.empty_heading:
            self.faults.append("empty heading cell")
        if tag == "table" and self.tables.pop() != "named":
            self.faults.append("table without caption")

    def handle_data(self, data: str) -> None:
        self.empty_heading = False
        if self.headings and not self.headings[-1][1]:
            self.headings[-1] = (self.headings[-1][0], data)


def check_page(html: str) -> Outline:
    found = Outline(html)
    assert found.faults == []
    levels = [level for level, _ in found.headings]
    assert levels[0] == 1 and levels.count(1) == 1 and max(np.diff(levels), default=1) <= 1, found.headings
    assert len(set(found.ids)) == len(found.ids)
    assert [found.tags.count(tag) for tag in ("main", "nav", "header", "title")] == [1, 1, 1, 1]
    assert '<html lang="en">' in html and "url(" not in html and "@import" not in html
    return found


def test_a_chain_is_shown_whole(chain: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "report.html"
    size = write_report([str(chain)], out)
    html = out.read_text(encoding="utf-8")
    assert size == len(html.encode()) < 1_000_000
    found = check_page(html)
    assert "script" not in found.tags and HOSTILE not in html
    titles = [title for _, title in found.headings]
    order = ["caption", "select", "Scores", "Kept images", "Rejected images", "Contact sheet of each identity"]
    order += [
        "Dataset card",
        "Counts",
        "transfer",
        "Training curves",
        "Pictures",
        "Configuration",
        "Summary and versions",
    ]
    assert [title for title in titles if title in order] == order
    assert "2 of 3 images kept (66.7%), of 1 identities" in html and "2 real and 3 generated images" in html
    assert REASON.replace("<", "&lt;").replace(">", "&gt;") in html
    assert "<td>1 min 25 s</td>" in html and "<td>80.0</td>" in html and "<svg" in html
    assert "[elsewhere]" in html and "[above]" in html and 'alt="scores"' in html


def test_runs_are_compared_with_an_interval_over_seeds(tmp_path: Path) -> None:
    for seed, score in enumerate((70.0, 80.0)):
        curve = f"step,train/loss\n0,{seed + 1}\n5,{seed}\n"
        make_run(tmp_path / "runs" / f"fit-00{seed + 1}", seed, score, (curve,))
    out = tmp_path / "report.html"
    assert main(["report", str(tmp_path / "runs"), "--out", str(out)]) == 0
    html = out.read_text(encoding="utf-8")
    found = check_page(html)
    assert [title for level, title in found.headings if level == 2] == ["Comparison", "fit-001", "fit-002"]
    assert f"75.0 ({INTERVAL}), n = 2" in html
    settings = html[html.index("Settings that are not equal in all") :]
    assert re.findall(r'<th scope="row">([^<]+)</th><td>([^<]+)</td><td>([^<]+)</td>', settings)[0] == (
        "seed_everything", "0", "1",
    )  # fmt: skip


def test_runs_on_the_same_queries_are_compared_over_people(tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    for number, mean in enumerate((50.0, 60.0, 70.0)):
        run = make_run(tmp_path / "runs" / f"fit-00{number + 1}", number, mean)
        people = [f"market/test/{person}" for person in range(40)] * (1 if number < 2 else 2)  # the third has others
        lines = [
            f"{person},{value:.2f}" for person, value in zip(people, random.normal(mean, 5, len(people)), strict=True)
        ]
        (run / "queries_test.csv").write_text("\n".join(["person,AP", *lines]), encoding="utf-8")
    write_report([str(tmp_path / "runs")], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    (cells,) = re.findall(r"test mAP above the first run&#39;s, 95 % over people</th>(.*?)</tr>", html)
    first, second, third = re.findall(r"<td>([^<]*)</td>", cells)
    assert (first, third) == ("–", "–")
    mean, low, high = map(float, re.fullmatch(r"([+-][\d.]+) \(([+-][\d.]+) to ([+-][\d.]+)\)", second).groups())
    assert 5 < low < mean < high < 15


def test_results_of_two_splits_are_not_set_side_by_side(tmp_path: Path) -> None:
    for seed, split in enumerate(("test", "val")):
        make_run(tmp_path / f"fit-{seed}", seed, 70.0 + seed, split=split)
    write_report([str(tmp_path)], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    rows = dict(re.findall(r'<th scope="row">(\w+ mAP)</th>((?:<td>[^<]+</td>)+)', html))
    assert rows == {"test mAP": "<td>70.0</td><td>–</td>", "val mAP": "<td>–</td><td>71.0</td>"}
    assert "n = 2" not in html, "a mean over a test and a validation"


def test_paths_below_the_roots_of_two_chains_are_no_differing_settings(chain: Path, tmp_path: Path) -> None:
    shutil.copytree(chain, tmp_path / "other")
    for root, rate in ((chain, 0.1), (tmp_path / "other", 0.2)):
        places = f"trainer: {{default_root_dir: {root}/transfer}}\ndata: {{train: {root}/select/diff_person}}\n"
        (root / "transfer/fit-001/config.yaml").write_text(f"{places}model: {{lr: {rate}}}\n", encoding="utf-8")
    write_report([str(chain), str(tmp_path / "other")], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    settings = html[html.index("Settings that are not equal in all") :].partition("</table>")[0]
    assert re.findall(r'<th scope="row">([^<]+)<', settings) == ["transfer model.lr"]


def test_a_benchmark_shows_its_tables_with_intervals(tmp_path: Path) -> None:
    folder = tmp_path / "root" / "results"
    folder.mkdir(parents=True)
    row = "| made † | 55.0 ± 1.0<br>+5.0 (+3.0 to +7.0)* |"
    (folder / "table.md").write_text(f"| initialization | USL: market |\n|---|---|\n{row}\n\nA sentence.\n", "utf-8")
    write_report([str(tmp_path / "root")], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    check_page(html)
    assert "<td>55.0 ± 1.0<br>+5.0 (+3.0 to +7.0)*</td>" in html and "<p>A sentence.</p>" in html


@pytest.mark.parametrize("command", ["fit", "test", "validate"])
def test_cells_of_an_unfinished_benchmark_are_averaged_over_seeds(tmp_path: Path, command: str) -> None:
    for seed, score in enumerate((70.0, 80.0)):
        cell = tmp_path / "root" / "cells" / "scratch" / "usl" / "market" / f"seed-{seed}"
        for key, value in (("old", 10.0), ("old.outdated-1", 20.0), ("new", score)):
            make_run(cell / key / f"{command}-001", seed, value)
            Record({}, {}, "token", 0).write(cell / key)
            os.utime(cell / key / "job.json", (value, value))
    write_report([str(tmp_path / "root")], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "2 cells begun: 2 done, 0 running or killed, 0 failed" in html and f"75.0 ({INTERVAL}), n = 2" in html


def test_a_benchmark_is_shown_as_it_was_planned_last(tmp_path: Path) -> None:
    root = tmp_path / "root"
    cells = {key: [f"cells/scratch/usl/market/seed-{seed}/{key}" for seed in (0, 1)] for key in ("old", "new")}
    for folder, value in ((cells["old"][0], 10.0), (cells["old"][1], 20.0), (cells["new"][0], 70.0)):
        make_run(root / folder / "fit-001", 0, value)
        Record({}, {}, "token", 0).write(root / folder)
    (root / "results").mkdir()
    (root / "results/table.md").write_text("| old |\n|---|\n| 99.9 |\n", "utf-8")
    (root / "results/plan.json").write_text(json.dumps({"cells": cells["old"]}))
    for key, texts, others in (
        ("old", ("2 cells begun: 2 done", "99.9"), ()),
        ("new", ("1 cells begun: 1 done", "of 3 folders of cells the last configuration", "70.0, n = 1"), ("99.9",)),
    ):
        (root / "plan.json").write_text(json.dumps({"cells": cells[key]}))
        write_report([str(root)], tmp_path / "report.html")
        html = (tmp_path / "report.html").read_text(encoding="utf-8")
        assert all(each in html for each in texts) and not any(each in html for each in others)


def test_cells_are_read_of_one_split_once_they_are_finished(tmp_path: Path) -> None:
    for dataset, code, metrics in (
        ("market", 0, {"val": 10.0, "test": 20.0}),
        ("duke", 1, {"val": 30.0}),  # its test failed
        ("msmt", None, {"val": 40.0, "test": 50.0}),
    ):
        cell = tmp_path / "root/cells/scratch/usl" / dataset / "seed-0/key"
        values = {split: {"mAP": value, "Rank-1": value} for split, value in metrics.items()}
        RunSummary("fit", "id", 1, "0", metrics=values).write(make_run(cell / "fit-001"))
        Record({}, {}, "token", code).write(cell)
    write_report([str(tmp_path / "root")], tmp_path / "report.html")
    html = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "Results so far on test" in html and "20.0, n = 1" in html
    assert not [value for value in ("10.0", "30.0", "40.0", "50.0") if value in html]


def test_a_report_replaces_nothing_but_a_report(tmp_path: Path) -> None:
    run, out = make_run(tmp_path / "fit-001"), tmp_path / "page.html"
    out.write_text("my notes")
    with pytest.raises(UserError, match=r"page\.html is not replaced"):
        write_report([str(run)], out)
    assert out.read_text() == "my notes"
    out.write_text("")
    for _ in range(2):
        write_report([str(run)], out)


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not take such a name")
def test_a_folder_whose_name_is_of_another_encoding_is_shown(tmp_path: Path) -> None:
    runs = make_run(tmp_path / os.fsdecode(b"l\xe4ufe") / "fit-001").parent
    write_report([str(runs)], tmp_path / "report.html")
    write_report([str(runs / "fit-001"), str(make_run(tmp_path / "b/fit-001"))], tmp_path / "report.html")
    assert "l?ufe" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_folders_that_hold_nothing_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match="nothing to report on"):
        write_report([str(tmp_path)], tmp_path / "report.html")
    assert main(["report", str(tmp_path), "--out", str(tmp_path)]) == 2
    assert "A path cannot be used" in capsys.readouterr().err


def test_pictures_stay_within_their_bytes() -> None:
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (100, 3200, 3), dtype=np.uint8))
    budget = PictureBudget(150_000)
    blocks = [budget.embed(noise, f"noise {number}") for number in range(4)]
    sources = [source for each in blocks for source in re.findall('src="([^"]+)"', each)]
    assert 0 < len(sources) < 4 and sum(map(len, sources)) == 150_000 - budget.left
    assert blocks[-1].endswith("too large: noise 3") and 'width="1600" height="50"' in blocks[0]


def test_the_best_images_of_an_identity_come_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{number}.png" for number in range(12)]
    manifest = make_manifest(tmp_path, names, pid=[1] * 11 + [2], confidence=[number / 100 for number in range(12)])
    for number, name in enumerate(names):
        save_image(tmp_path / name, 10 * number)
    sheets: list[Image.Image] = []
    monkeypatch.setattr(PictureBudget, "embed", lambda self, image, alt: sheets.append(image) or "")
    empty = manifest.filter(np.zeros(12, bool))
    assert len(draw_strips([manifest, empty], None, PictureBudget(0))) == len(sheets) == 2
    line = np.asarray(sheets[0])[90, :, 0].tolist()
    assert list(dict.fromkeys(value for value in line if value < 120)) == [10 * number for number in range(10, 0, -1)]


def test_stages_keep_the_order_in_which_they_ended(chain: Path) -> None:
    for second, name in enumerate(("transfer", "caption", "select")):
        os.utime(record_file(chain, name), (second, second))
    assert list(order_stages(chain)) == ["transfer", "caption", "select"]
    (chain / ".stages" / "pretrain.begun.json").write_text("{}", encoding="utf-8")
    assert list(order_stages(chain).items())[-1] == ("pretrain", None)


def test_folders_are_called_as_their_writers_call_them() -> None:
    from diffreid_lightning.benchmark import results_files
    from diffreid_lightning.filtering import selection

    names = (selection_section.DATASET, selection_section.REJECTED, selection_section.REPORT, benchmark_section.RESULTS)
    assert names == (selection.DATASET, selection.REJECTED, selection.REPORT, results_files.FOLDER)


def luminance(color: str) -> float:
    """Return the relative luminance of ``#rrggbb`` (WCAG 2.2)."""
    parts = [int(color[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colors_have_contrast(scheme: str) -> None:
    light, dark = (TEMPLATES / "theme.css").read_text(encoding="utf-8").split("@media (prefers-color-scheme: dark)")
    colors = dict(re.findall(r"--(\w+): (#\w{6})", light if scheme == "light" else dark))
    for ground in ("page", "panel"):
        for name in ("text", "muted", "link", "good", "bad", *(f"s{number}" for number in range(6))):
            high, low = sorted((luminance(colors[name]), luminance(colors[ground])), reverse=True)
            assert (high + 0.05) / (low + 0.05) >= 4.5, (name, ground)
