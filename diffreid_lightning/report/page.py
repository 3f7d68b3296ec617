"""Write a report: one HTML page that holds everything it shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from diffreid_lightning.errors import UserError
from diffreid_lightning.paths import make_folder
from diffreid_lightning.report.blocks import environment
from diffreid_lightning.report.picture_budget import PictureBudget
from diffreid_lightning.report.run_comparison import compare_subjects
from diffreid_lightning.report.subjects import describe_subject, find_subjects, name_subjects
from diffreid_lightning.storage.atomic import refuse_foreign_file, replace_file

LARGEST_PAGE = 20_000_000  #: bytes
_PICTURES = 17_000_000  # bytes of it
_TITLE = "Report: "


def write_report(paths: Sequence[str], out: Path) -> int:
    """Describe folders and write the page, atomically.

    Args:
        paths: folders of chains, runs, benchmarks or stages; several are compared.
        out: the page; its folder is created if missing.

    Returns:
        Size of the page in bytes, at most 20 MB.

    Raises:
        UserError: a folder holds nothing to report on, the page would be too large, or another file is in its place.
        OSError: the page cannot be written.
    """
    refuse_foreign_file(out, _is_report, "a report", "an earlier report", "--out")
    folders = find_subjects(paths)
    names = name_subjects(folders)
    budgets = [PictureBudget(_PICTURES // len(folders)) for _ in folders]
    subjects = list(map(describe_subject, folders, names, budgets))
    sections = [compare_subjects(subjects)] if len(subjects) > 1 else []
    sections += [subject.section for subject in subjects]
    title = f"{_TITLE}{', '.join(names)}"
    page = environment().get_template("report.html").render(title=title, sections=sections)
    data = page.encode(errors="replace")  # a folder's name may be of another encoding
    if len(data) > LARGEST_PAGE:
        raise UserError(
            "The page would become too large.",
            looked_for=f"at most {LARGEST_PAGE / 1e6:.0f} MB",
            found=f"{len(data) / 1e6:.1f} MB from {len(folders)} folders",
            remedy="give fewer of them, and write several pages",
        )
    make_folder(out.parent)
    with replace_file(out) as staged:
        staged.write_bytes(data)
    return len(data)


def _is_report(out: Path) -> bool:
    """Return true if a file begins as a report does."""
    with out.open("rb") as file:
        return f"<title>{_TITLE}".encode() in file.read(2048)
