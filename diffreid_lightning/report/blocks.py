"""Blocks of a report: tables, pictures, charts and texts in nested sections."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Table:
    """A table; the first cell of each row is its heading.

    Args:
        caption: its title.
        head: headings of the columns.
        rows: cells as text, as many as headings.
    """

    caption: str
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    kind: str = "table"


@dataclass(frozen=True)
class Picture:
    """An image on the page.

    Args:
        source: data URI.
        size: width and height in pixels.
        alt: description for those who do not see it.
        caption: words below it.
    """

    source: str
    size: tuple[int, int]
    alt: str
    caption: str = ""
    kind: str = "picture"


@dataclass(frozen=True)
class Chart:
    """A line chart.

    Args:
        svg: an ``<svg>`` element that :func:`~.line_chart.draw_lines` made.
        caption: words below it.
    """

    svg: str
    caption: str
    kind: str = "chart"


@dataclass(frozen=True)
class Text:
    """A text.

    Args:
        text: shown as it is.
        preformatted: keep its lines.
    """

    text: str
    preformatted: bool = False
    kind: str = "text"


@dataclass(frozen=True)
class Html:
    """Trusted HTML that this package has made.

    Args:
        html: inserted without escaping.
    """

    html: str
    kind: str = "html"


Block = Table | Picture | Chart | Text | Html


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading.

    Args:
        title: the heading.
        blocks: content.
        children: sections below it.
        collapsed: hide the content until the reader opens it.
    """

    title: str
    blocks: Sequence[Block] = ()
    children: Sequence[Section] = field(default=())
    collapsed: bool = False

    def __bool__(self) -> bool:
        """Return false for a section without content."""
        return bool(self.blocks or self.children)
