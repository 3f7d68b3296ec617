"""Render Markdown as HTML that requests nothing: HTML is escaped, images are embedded or become their words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from markdown_it import MarkdownIt
from markdown_it.token import Token
from markupsafe import Markup

from diffreid_lightning.report.blocks import block
from diffreid_lightning.report.picture_budget import PictureBudget

_HEADER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)  # YAML of the Hub


def render_markdown(source: str, level: int, folder: Path, budget: PictureBudget) -> Markup:
    """Render Markdown with tables.

    Args:
        source: the Markdown; a YAML header is left out.
        level: level of its highest headings on the page, 1 to 6.
        folder: folder of its images; others are not read.
        budget: embeds them.
    """
    parser = MarkdownIt("commonmark", {"html": False}).enable("table")

    def picture(_: object, tokens: Sequence[Token], number: int, *__: object) -> str:
        name, alt = str(tokens[number].attrGet("src") or ""), tokens[number].content
        inside = folder.resolve() in (folder / name).resolve().parents
        found = budget.embed_file(folder / name, alt) if inside else []
        return "".join(found) or str(Markup.escape(f"[{alt or name}]"))

    parser.add_render_rule("image", picture)
    tokens = parser.parse(_HEADER.sub("", source))
    title = "Table"
    for number, token in enumerate(tokens):
        if token.type in ("heading_open", "heading_close"):
            token.tag = f"h{min(6, int(token.tag[1]) + level - 1)}"
            title = tokens[number + 1].content if token.type == "heading_open" else title
        elif token.type == "table_open":
            token.attrSet("aria-label", title)
        elif token.type == "th_open" and tokens[number + 1].content:
            token.attrSet("scope", "col")
        elif token.type == "th_open":
            token.tag = tokens[number + 2].tag = "td"
    return block("card", Markup(parser.renderer.render(tokens, parser.options, {})))
