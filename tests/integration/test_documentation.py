"""Every command and Python block of README and docs is one that works as it is shown.

Commands are parsed by the real parsers, files and configs that they name must exist, and Python blocks must compile. A
block below the comment ``<!-- test: run -->`` is run, and so are the examples of ``docs/contributing``.
"""

from __future__ import annotations

import importlib.util
import inspect
import os
import re
import shlex
from collections.abc import Callable
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from diffreid_lightning.cli.main import PLAIN_COMMANDS
from tests.fixtures.diffusion import SIZE

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
EXAMPLES = [page for page in PAGES if page.parent.name == "contributing" and page.name != "index.md"]
COMMAND = "python -m "
PACKAGE = "diffreid_lightning"
RUN = "<!-- test: run -->"
#: datasets that the pages name; a small one stands in their place
DATASETS = ("/data/market1501", "/data/crops", "/data/cuhk03", "/data/msmt17")
_FENCE = re.compile(r"^([ ]*)```(\w*)[^\n]*\n(.*?)^\1```$", re.DOTALL | re.MULTILINE)


def page_name(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@cache
def blocks(page: Path, language: str) -> list[tuple[str, bool]]:
    """Return the blocks of a language on a page, and whether each is marked to be run."""
    text = page.read_text(encoding="utf-8")
    found = [match for match in _FENCE.finditer(text) if match[2] == language]
    return [(match[3], text[: match.start()].rstrip().endswith(RUN)) for match in found]


def shown_commands() -> list[str]:
    """Return each ``python -m`` command of the pages once, without its comment and redirection."""
    lines = []
    for page in PAGES:
        for block, _ in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                words = shlex.split(line, comments=True)
                lines.append(shlex.join(words[words.index("python") :]) if "python" in words else "")
        prose = _FENCE.sub("", page.read_text(encoding="utf-8"))
        # In prose a command may go without its first words.
        for code in re.findall(r"`([^`\n]+)`", prose):
            starts = ("fit --", "predict --", "select --", "test --", "validate --", "pipeline --", "benchmark --")
            lines.append(f"{COMMAND}{PACKAGE} {code}" if code.startswith(starts) else code)
    return sorted({re.split(r" '?[>|]'? ", line)[0] for line in lines if line.startswith(COMMAND)})


OTHERS = [
    line
    for line in shown_commands()
    if line.split()[2].startswith((f"{PACKAGE}.", "tools.", "experiments.", "benchmarks."))
]


@pytest.mark.parametrize("line", OTHERS)
def test_modules_that_are_run_exist_and_have_the_options(line: str) -> None:
    """The options are looked for in the module's source and, since scripts share theirs, in its neighbors'."""
    module, *words = shlex.split(line)[2:]
    spec = importlib.util.find_spec(module)
    assert spec is not None and spec.origin is not None
    sources = "".join(file.read_text(encoding="utf-8") for file in Path(spec.origin).parent.glob("*.py"))
    options = [word.partition("=")[0] for word in words if word.startswith("--")]
    assert [name for name in options if name not in sources and name[2:].replace("-", "_") not in sources] == []


def stands_in(word: str, dataset: str) -> str:
    """Replace a dataset or an earlier run that the pages name by one that is there."""
    if word.endswith("/config.yaml"):
        return "my.yaml"
    names = "|".join(map(re.escape, DATASETS))
    return re.sub(rf"(?:{names})(?![\w/.])", dataset, word)


def distinct_commands() -> list[str]:
    """Return the package's commands, without those whose words are part of a longer one, datasets and runs aside."""
    found: dict[tuple[str, ...], str] = {}
    for line in shown_commands():
        if line.split()[2] == PACKAGE and "..." not in line and "CLASS" not in line:
            words = [stands_in(word, "DATASET") for word in shlex.split(line)]
            while "--ckpt_path" in words:  # whose run is not there
                place = words.index("--ckpt_path")
                del words[place : place + 2]
            found.setdefault(tuple(words), line)
    return sorted(line for words, line in found.items() if not any(is_part(words, others) for others in found))


def is_part(words: tuple[str, ...], others: tuple[str, ...]) -> bool:
    """Tell whether a longer command of the same configs has all the words."""
    configs, more = ([b for a, b in pairwise(each) if a == "--config"] for each in (words, others))
    return words[3:4] == others[3:4] and configs == more and set(words) < set(others)


@pytest.mark.parametrize("line", distinct_commands())
def test_commands_are_accepted(
    line: str,
    command: Callable[..., int],
    market: Path,
    parses_only: None,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.syspath_prepend(str(Path.cwd()))
    write_own_files()
    words = [stands_in(word, str(market)) for word in shlex.split(line)[3:]]
    if "--ckpt_path" in words:
        place = words.index("--ckpt_path")
        del words[place : place + 2]
    if words[0] in PLAIN_COMMANDS and words[0] not in ("select", "pipeline", "benchmark"):
        check_options(command, words, capsys)
        return
    if words[0] == "select":
        words.append("--print_config")
    assert command(*words) == 0, capsys.readouterr().err


def write_own_files() -> None:
    """Write what the pages suppose in the working folder: a config, a module, the tools of a clone."""
    Path("my.yaml").write_text("trainer: {max_epochs: 1}\n", encoding="utf-8")
    Path("grid.yaml").write_text(blocks(ROOT / "docs/guide/benchmark.md", "yaml")[0][0], encoding="utf-8")
    for folder in ("tools", "experiments"):
        Path(folder).symlink_to(ROOT / folder)
    examples = "\n".join(blocks(page, "python")[0][0] for page in EXAMPLES)
    Path("my_module.py").write_text(examples, encoding="utf-8")


def check_options(command: Callable[..., int], words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Look the options of a command up in its help, and those of a dataset format in its constructor."""
    from diffreid_lightning.datasets import FORMATS

    known = set()
    if words[:2] == ["data", "check"] and "--format" in words:
        name = words[words.index("--format") + 1]
        (chosen,) = (each for each in FORMATS if each.__name__ == name)
        known = {f"--{option}" for option in inspect.signature(chosen).parameters}
    verb = words[:2] if words[0] == "data" else words[:1]
    assert command(*verb, "--help") == 0
    text = capsys.readouterr().out
    assert [word for word in words if word.startswith("--") and word not in known and word not in text] == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_configs_that_are_named_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    named = set(re.findall(r"--config[ =]([\w/.-]+)", text))
    named |= set(re.findall(r"`((?:stages|recipes|chains|sweeps|benchmark|vocabulary)/\w+)`", text))
    known = {
        path.relative_to(ROOT / "configs").with_suffix("").as_posix() for path in (ROOT / "configs").rglob("*.yaml")
    }
    own = {"NAME", "my.yaml", "mine.yaml", "grid.yaml", "RECIPE"}
    assert [
        name
        for name in named - known - own
        if not (ROOT / name).is_file() and "RUN" not in name and not name.startswith("runs/")
    ] == []


def test_packaged_configs_are_listed() -> None:
    page = (ROOT / "docs/guide/configs.md").read_text(encoding="utf-8")
    rows = dict(re.findall(r"^\| `(\w+)/` \| (.*) \|$", page, re.MULTILINE))
    files = [path.relative_to(ROOT / "configs") for path in (ROOT / "configs").glob("*/*.yaml")]
    assert [str(file) for file in files if f"`{file.stem}`" not in rows.get(file.parent.name, "")] == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_links_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8"))
    generated = ROOT / "docs" / "reference"
    targets = [Path(os.path.normpath(page.parent / link)) for link in links]
    assert [str(target) for target in targets if not target.exists() and generated not in target.parents] == []


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_python_blocks_compile(page: Path) -> None:
    for number, (block, _) in enumerate(blocks(page, "python")):
        compile(block, f"{page_name(page)}, block {number + 1}", "exec")


@pytest.mark.parametrize("page", PAGES, ids=page_name)
def test_yaml_blocks_can_be_read(page: Path) -> None:
    for block, _ in blocks(page, "yaml"):
        assert isinstance(yaml.safe_load(block), dict)


def small(block: str) -> str:
    """Shorten a training that is shown."""
    quick = "max_epochs=1, limit_train_batches=2, limit_test_batches=1, logger=False, accelerator='cpu'"
    return block.replace("max_epochs=20", f"{quick}, enable_checkpointing=False, enable_progress_bar=False")


RUN_ONCE = sorted({block for page in PAGES for block, marked in blocks(page, "python") if marked})


@pytest.mark.parametrize("block", RUN_ONCE, ids=range(len(RUN_ONCE)))
def test_marked_blocks_run(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    exec(compile(small(block), "block", "exec"), {})


@pytest.mark.parametrize("page", EXAMPLES, ids=page_name)
def test_contributing_examples_run(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The blocks of a page share their names, as in a notebook."""
    monkeypatch.chdir(tmp_path)
    shared: dict[str, Any] = {"__name__": "example"}
    for block, _ in blocks(page, "python"):
        exec(compile(block, page_name(page), "exec"), shared)


def loading_block(base: Path, folder: Path) -> str:
    """Return the block that loads a personalized model with diffusers alone, its paths and size replaced."""
    found = [block for page in PAGES for block, _ in blocks(page, "python") if "load_textual_inversion" in block]
    (block,) = found
    paths = re.sub(r"^base, folder = .*$", f"base, folder = {str(base)!r}, {str(folder)!r}", block, flags=re.MULTILINE)
    return paths.replace("height=256, width=128", f"height={SIZE[0]}, width={SIZE[1]}, num_inference_steps=1")


@pytest.mark.parametrize(("layout", "people", "vectors"), [("sd1", 4, 2), ("sdxl", 1, 1)])
def test_diffusers_alone_loads_what_generation_loads(
    checkpoints: dict[str, Path], tmp_path: Path, layout: str, people: int, vectors: int
) -> None:
    from diffreid_lightning.diffusion.prompt_encoding import text_encoders
    from diffreid_lightning.personalization.checkpoint import load_personalized, read_tokens
    from tests.fixtures.drawing import write_personalized_model

    folder = write_personalized_model(tmp_path, checkpoints[layout], people, vectors)
    found: dict[str, Any] = {}
    exec(loading_block(checkpoints[layout], folder), found)
    names, _ = read_tokens(folder)
    assert found["names"] == names and len(names) == people
    ours = text_encoders(load_personalized(folder).pipeline)
    for (tokenizer, encoder), (wanted, trained) in zip(text_encoders(found["pipeline"]), ours, strict=True):
        assert [tokenizer.convert_tokens_to_ids(name) for name in names] == wanted.convert_tokens_to_ids(names)
        table, other = (each.get_input_embeddings().weight[-people * vectors :] for each in (encoder, trained))
        assert torch.equal(table, other)
