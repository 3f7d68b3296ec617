"""Which files are damaged for which command."""

from __future__ import annotations

from dataclasses import dataclass

from tests.fuzz.world import BRIEF, CONFIGURED, words_of


@dataclass(frozen=True)
class Target:
    """A command and the files that it reads.

    Args:
        name: what it is called in reports.
        words: the command.
        needs: files and folders of the world that it needs beside those that are damaged.
        damaged: patterns of the files to damage, one of which is chosen, then a file that it fits.
        placed: where a folder of the world goes, if not where it lies there.
        often: how often it is drawn beside the others.
    """

    name: str
    words: tuple[str, ...]
    needs: tuple[str, ...]
    damaged: tuple[str, ...]
    placed: tuple[tuple[str, str], ...] = ()
    often: int = 1


_RUN = "runs/reid/fit-001"
_CKPT = (f"{_RUN}/checkpoints/last.ckpt",) * 3
_TRAINED = (f"{_RUN}/backbone/*", f"{_RUN}/config.yaml", f"{_RUN}/*")
_NOTES = (f"{_RUN}/run.json", f"{_RUN}/config.yaml", f"{_RUN}/results.csv")


def _resumed(command: str, place: str, needs: tuple[str, ...], more: tuple[str, ...] = ()) -> Target:
    """Take a stage that was stopped after its first batch."""
    inside = (f"runs/{place}/.parts/*", f"runs/{place}/.*.npy", f"runs/{place}/.parts/stage.json", *more)
    return Target(
        f"{command}-resumed", tuple(words_of(command)), needs, inside, ((f"runs/{place}-begun", f"runs/{place}"),)
    )


def _finished(command: str, place: str, needs: tuple[str, ...]) -> Target:
    """Take a stage that is done."""
    there = (f"runs/{place}/stage.json", f"runs/{place}/metadata.parquet", f"runs/{place}/*")
    return Target(f"{command}-done", tuple(words_of(command)), (*needs, f"runs/{place}"), there)


def _configured(command: str, needs: tuple[str, ...]) -> Target:
    """Take a command with the whole of its configuration in a file."""
    place = f"in/configs/{command}.yaml"
    verb, *rest = words_of(command)
    if command == "select":
        words = (verb, "--config", place, "--tracker=null")
    else:
        packaged = rest[:2] if rest[0] == "--config" else []
        words = (verb, *packaged, "--config", place, *(BRIEF if verb == "fit" else BRIEF[2:3]))
    return Target(f"{command}-config", words, needs, (place,), often=3)


_GENERATING = ("in/people", "in/model", "in/words.yaml", "in/personalized")
_SCORING = ("in/generated", "in/market", "runs/score/fit-001/scorer")
_NEEDS = {
    "fit": ("in/market",), "caption": ("in/market",), "score": ("in/market",), "score_generated": _SCORING,
    "personalize": ("in/people", "in/model"), "generate": _GENERATING, "select": ("runs/scored", *_SCORING),
    "adapt": ("in/people",),
}  # fmt: skip

TARGETS: tuple[Target, ...] = (
    *(_configured(command, _NEEDS[command]) for command in CONFIGURED),
    Target("check", tuple(words_of("check")), (), ("in/market.zip",)),
    Target("export", tuple(words_of("export")), (), ("in/market.zip",)),
    Target("check-manifest", ("data", "check", "in/people", "--decode"), ("in/people",),
           ("in/people/metadata.parquet",)),
    Target("sheet", tuple(words_of("sheet")), ("in/people",), ("in/people/metadata.parquet", "in/people/images/*")),
    Target("convert", tuple(words_of("convert")), (), ("in/weights.pth",)),
    Target("continue", (*words_of("fit"), "--ckpt_path=last", "--trainer.max_epochs=2"), ("in/market", _RUN),
           (*_CKPT, *_NOTES, f"{_RUN}/*", f"{_RUN}/checkpoints/*"), often=3),
    Target("test", tuple(words_of("test")), ("in/market", _RUN), (*_CKPT, *_NOTES, f"{_RUN}/*"), often=2),
    Target("features", tuple(words_of("features")), ("in/market", _RUN), (*_CKPT, *_NOTES, f"{_RUN}/features.*")),
    Target("init", (*words_of("fit"), f"--model.init_from={_RUN}/backbone", "--trainer.limit_train_batches=1"),
           ("in/market", _RUN), (f"{_RUN}/backbone/*",)),
    Target("fit-images", tuple(words_of("fit")), ("in/market",), ("in/market/*/*.jpg", "in/market/*")),
    _resumed("caption", "caption", _NEEDS["caption"]),
    _resumed("generate", "generate", _GENERATING),
    _resumed("score_generated", "scored", _SCORING),
    _finished("caption", "caption", _NEEDS["caption"]),
    _finished("generate", "generate", _GENERATING),
    _finished("score_generated", "scored", _SCORING),
    Target("caption-manifest", (*words_of("caption"), "--data.source=in/people"), ("in/people",),
           ("in/people/metadata.parquet",)),
    Target("generate-manifest", tuple(words_of("generate")), _GENERATING, ("in/people/metadata.parquet",)),
    Target("personalized", tuple(words_of("generate")), _GENERATING,
           ("in/personalized/*.json", "in/personalized/*.safetensors", "in/personalized/lora/*", "in/words.yaml"),
           often=2),
    Target("diffusers-folder", tuple(words_of("generate")), _GENERATING, ("in/model/*.json", "in/model/*/*")),
    Target("scorer", tuple(words_of("score_generated")), _SCORING,
           ("runs/score/fit-001/scorer/*", "runs/score/fit-001/scorer/*/*"), often=2),
    Target("score-manifest", tuple(words_of("score_generated")), _SCORING, ("in/generated/metadata.parquet",)),
    Target("scored", tuple(words_of("select")), ("runs/scored", *_SCORING),
           ("runs/scored/*.*", "runs/scored/metadata.parquet"), often=2),
    Target("selected", tuple(words_of("select")), ("runs/scored", "runs/select", *_SCORING),
           ("runs/select/*/*.*", "runs/select/*")),
    Target("people", ("fit", *words_of("personalize")[1:]), ("in/people", "in/model"), ("in/people/metadata.parquet",)),
    Target("caches", tuple(words_of("personalize")), ("in/people", "in/model", "runs/cache"), ("runs/cache/*/*",)),
    Target("personalize-continue", (*words_of("personalize"), "--ckpt_path=last", "--trainer.max_epochs=2"),
           ("in/people", "in/model", "runs/cache", "runs/personalize"),
           ("runs/personalize/fit-001/checkpoints/last.ckpt", "runs/personalize/fit-001/*")),
    Target("chain", (*words_of("pipeline"), "--dry-run"), ("in/market", "runs/chain"),
           ("in/chain.yaml", "in/chain.yaml", "runs/chain/.stages/*", "runs/chain/*/*", "runs/chain/train/fit-001/*"),
           often=2),
    Target("chain-run", tuple(words_of("pipeline")), ("in/market", "in/chain.yaml", "runs/chain"),
           ("runs/chain/.stages/*", "runs/chain/train/fit-001/results.csv", "runs/chain/*")),
    Target("embed", tuple(words_of("embed")), ("in/people", _RUN), _TRAINED),
    Target("embed-images", tuple(words_of("embed")), ("in/people", _RUN, "runs/features.parquet"),
           ("in/people/images/*", "in/people/metadata.parquet", "runs/features.parquet")),
    Target("search", tuple(words_of("search")), ("in/people", _RUN), ("runs/features.parquet",), often=3),
    Target("search-files", ("search", *("runs/features.parquet",) * 2, "--out", "runs/found"), ("in/people",),
           ("runs/features.parquet",), often=2),
    Target("thresholds", tuple(words_of("thresholds")), ("in/market", _RUN), _TRAINED),
    Target("onnx", tuple(words_of("onnx")), (_RUN,), _TRAINED),
    Target("report", tuple(words_of("report")), (_RUN,), (f"{_RUN}/summary.json", f"{_RUN}/*"), often=3),
    Target("report-two", ("report", _RUN, "runs/chain", "--out", "runs/report.html"), (_RUN, "runs/chain"),
           ("runs/chain/*/*", "runs/chain/.stages/*", "runs/chain/train/fit-001/summary.json"), often=2),
    Target("report-selection", ("report", "runs/select", "--out", "runs/report.html"), ("runs/select", *_SCORING),
           ("runs/select/*/*.*", "runs/select/*")),
    Target("browse", tuple(words_of("browse")), ("in/people",), ("in/people/metadata.parquet", "in/people/images/*")),
    Target("browse-selection", ("data", "browse", "runs/select", "--out", "runs/pages"), ("runs/select", *_SCORING),
           ("runs/select/*/*.parquet",)),
    Target("sweep", tuple(words_of("sweep")), ("in/market",), ("in/sweep.yaml",), often=3),
    Target("push", tuple(words_of("push")), (_RUN,), _TRAINED),
)  # fmt: skip
