"""Blocks of a report as escaped HTML: tables, figures, charts and texts, in nested sections."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading.

    Args:
        title: the heading.
        blocks: its content.
        children: sections below it; those without content are left out.
        collapsed: hide the content until the reader opens it.
    """

    title: str
    blocks: Sequence[Markup] = ()
    children: Sequence[Section] = field(default=())
    collapsed: bool = False

    @property
    def parts(self) -> list[Section]:
        """Return the children with content."""
        return [child for child in self.children if child.blocks or child.parts]


@functools.cache
def environment() -> Environment:
    """Return the templates, with every value escaped."""
    loader = PackageLoader("diffreid_lightning.report")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def block(kind: str, *values: Any) -> Markup:
    """Render a macro of ``blocks.html``, such as ``text``, ``table`` or ``figure``."""
    return Markup(getattr(environment().get_template("blocks.html").module, kind)(*values))


def text(words: str) -> Markup:
    """Render a paragraph."""
    return block("text", words)


def table(caption: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> Markup:
    """Render a table, the first cell of each row as its heading; words where it has no rows."""
    return block("table", caption, head, rows) if rows else text(f"{caption}: none.")
