"""Markdown as HTML that requests nothing: raw HTML is escaped, and images are embedded or become their words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from html import escape
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token

from diffreid_lightning.report.blocks import Picture
from diffreid_lightning.report.picture_budget import PictureBudget

_HEADER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)  # YAML of the Hub


def render_markdown(text: str, level: int, folder: Path, budget: PictureBudget) -> str:
    """Render Markdown with tables.

    Args:
        text: the Markdown; a YAML header is left out.
        level: level of its highest headings on the page, 1 to 6.
        folder: folder of its images.
        budget: embeds them.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = parser.parse(_HEADER.sub("", text))
    _adapt(tokens, level)

    def picture(_: object, inner: Sequence[Token], number: int, *__: object) -> str:
        return _embed(inner[number], folder, budget)

    parser.add_render_rule("image", picture)
    return str(parser.renderer.render(tokens, parser.options, {}))


def _adapt(tokens: Sequence[Token], level: int) -> None:
    """Lower the headings, and give tables captions and headings with a scope."""
    title = ""
    for number, token in enumerate(tokens):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + level - 1)}"
            title = tokens[number + 1].content if token.type == "heading_open" else title
        elif token.type == "table_open":
            token.attrSet("aria-label", title or "table")
        elif token.type == "th_open":
            token.attrSet("scope", "col")


def _embed(token: Token, folder: Path, budget: PictureBudget) -> str:
    name = str(token.attrGet("src") or "")
    file = folder / name
    inside = not name.startswith(("http:", "https:", "//", "data:")) and folder.resolve() in file.resolve().parents
    blocks = budget.embed_file(file, token.content) if inside else []
    if blocks and isinstance(blocks[0], Picture):
        width, height = blocks[0].size
        source = blocks[0].source
        return f'<img src="{source}" alt="{escape(token.content)}" width="{width}" height="{height}">'
    return escape(f"[{token.content or name}]")
