"""Generate the reference of the site: one page of ``--help`` texts, and one API page per room of the package.

MkDocs calls the functions below by their names. Nothing is written into ``docs/``.
"""

from __future__ import annotations

import io
import os
import re
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = "diffreid_lightning"
HELP: tuple[tuple[str, ...], ...] = (
    (),
    ("fit",),
    ("validate",),
    ("test",),
    ("predict",),
    ("pipeline",),
    ("benchmark",),
    ("sweep",),
    ("select",),
    ("report",),
    ("convert",),
    ("embed",),
    ("search",),
    ("thresholds",),
    ("export",),
    ("push",),
    ("pull",),
    ("data",),
    ("data", "check"),
    ("data", "sheet"),
    ("data", "export"),
    ("data", "browse"),
    ("doctor",),
    ("completion",),
)
_ROLE = re.compile(r":(?:class|func|mod|meth|attr|data|exc):<code>~?([^<]+)</code>")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the API pages to the navigation."""
    pages: list[Any] = [{name: f"reference/{name}.md"} for name in rooms(config)]
    reference = next(section["Reference"] for section in config.nav or [] if "Reference" in section)
    reference.append({"Python API": pages})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    files.append(File.generated(config, "reference/command_line.md", content=command_line_page()))
    for name in rooms(config):
        content = f"# {name}\n\n::: {PACKAGE}.{name}\n"
        files.append(File.generated(config, f"reference/{name}.md", content=content))
    return files


def on_page_content(html: str, **_: Any) -> str:
    """Show Sphinx roles in docstrings as code: the last part of the name alone."""
    return _ROLE.sub(lambda found: f"<code>{found[1].rpartition('.')[2]}</code>", html)


def rooms(config: MkDocsConfig) -> list[str]:
    """List the packages directly below the package, and its public modules."""
    folder = Path(config.config_file_path).parent / PACKAGE
    packages = [path.parent.name for path in folder.glob("*/__init__.py")]
    modules = [path.stem for path in folder.glob("*.py") if not path.stem.startswith("_")]
    return sorted([*packages, *modules])


def command_line_page() -> str:
    """Return the ``--help`` texts of all commands as one page."""
    parts = [
        "# Command line",
        "Generated from `--help`. `fit --model.help CLASS` and `fit --data.help CLASS` list the arguments of a class.",
    ]
    for words in HELP:
        title = " ".join(("python -m", PACKAGE, *words))
        parts += [f"## `{title}`", f"```text\n{help_text(*words, '--help')}\n```"]
    parts += ["## Every setting of `fit`", f"```text\n{help_text('fit', '--help', 'all')}\n```"]
    return "\n\n".join(parts) + "\n"


def help_text(*words: str) -> str:
    """Run a command that prints help, in this process.

    Raises:
        RuntimeError: the command refused.
    """
    from diffreid_lightning.cli import main  # torch and Lightning take seconds to import

    os.environ["COLUMNS"] = "100"
    out, err = io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        code = main(list(words))
    if code:
        raise RuntimeError(f"{' '.join(words)} ended with {code}: {err.getvalue()}")
    text = re.sub(r"\x1b\[[0-9;]*m", "", out.getvalue())
    return "\n".join(line.rstrip() for line in text.strip("\n").splitlines())
