"""Show the results of a sweep: a table of the trials, the best one's command, and the importance of parameters."""

from __future__ import annotations

import csv
import shlex
import warnings
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from diffreid_lightning.errors import first_line
from diffreid_lightning.storage.atomic import replace_file
from diffreid_lightning.sweeps.sweep_study import TRIALS, SweepStudy
from diffreid_lightning.sweeps.trial_command import trial_words

_TABLE, _PICTURE = "trials.csv", "importance.png"
_STATES = {"COMPLETE": "done", "PRUNED": "stopped early", "FAIL": "failed", "RUNNING": "running", "WAITING": "to do"}


def report(study: SweepStudy, console: Console) -> None:
    """Print and write the results.

    Args:
        study: the trials.
        console: the terminal.
    """
    sweep, trials = study.sweep, study.latest()
    rows = [_row(study, name, trial) for name, trial in trials.items()]
    with replace_file(study.root / _TABLE, contended=True) as staged, staged.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0] if rows else ["trial"])
        writer.writeheader()
        writer.writerows(rows)
    table = Table(title=escape(sweep.name), title_justify="left")
    for heading in list(rows[0]) if rows else ():
        table.add_column(escape(heading), overflow="fold")
    for row in rows:
        table.add_row(*(f"{value:.6g}" if isinstance(value, float) else escape(str(value)) for value in row.values()))
    console.print(table)
    done = {name: trial.value for name, trial in trials.items() if trial.state.name == "COMPLETE"}
    if done:
        best = (max if sweep.goal == "maximize" else min)(done, key=lambda name: done[name])
        folder = study.root / TRIALS / best
        words = trial_words(sweep, study.values(trials[best]), folder)
        command = shlex.join(["python", "-m", "diffreid_lightning", *words])
        _say(console, f"best: trial {best}, {sweep.metric} {done[best]:.6g}, in {folder}\n  again: {command}")
    _say(console, f"table: {study.root / _TABLE}\n{_draw_importance(study)}")


def _row(study: SweepStudy, name: str, trial: Any) -> dict[str, Any]:
    value = trial.value if trial.value is not None else next(reversed(trial.intermediate_values.values()), "")
    shown = {".".join(keys): given for keys, given in study.values(trial).items()}
    return {"trial": name, "state": _STATES[trial.state.name], study.sweep.metric: value, **shown}


def explained_variance(study: SweepStudy) -> dict[str, float]:
    """Estimate the share of the metric's variance that each parameter explains, by fANOVA; the shares sum to 1.

    Args:
        study: two finished trials or more.

    Raises:
        ValueError, RuntimeError: all trials have one result.
    """
    from optuna.importance import FanovaImportanceEvaluator, get_param_importances

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # Named: Optuna 5's default tells the best tenth of the trials from the rest, which is another question.
        return dict(get_param_importances(study.study, evaluator=FanovaImportanceEvaluator(seed=0)))


def _draw_importance(study: SweepStudy) -> str:
    """Draw what :func:`explained_variance` returns; return where, or why not."""
    from matplotlib.figure import Figure  # slow import; needs no display

    count = sum(trial.state.name == "COMPLETE" for trial in study.latest().values())
    if count < 2:
        return "no picture of importance: it needs two finished trials"
    try:
        found = explained_variance(study)
    except (ValueError, RuntimeError) as error:  # all trials have one result
        return f"no picture of importance: {first_line(error)}"
    names = list(found)[::-1]
    figure = Figure(figsize=(7, 1.2 + 0.35 * len(names)), dpi=120, layout="constrained")
    axes = figure.subplots()
    bars = axes.barh(names, [found[name] for name in names], color="#1f4e79", height=0.6)
    axes.bar_label(bars, fmt="%.2f", padding=3, fontsize=8)
    axes.set_xlim(0, 1.1 * max(found.values(), default=1) or 1)
    axes.set_xlabel(f"share of the variance of {study.sweep.metric} (fANOVA)", fontsize=9)
    axes.set_title(f"{study.sweep.name}: {count} trials", fontsize=9, loc="left")
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)
    file = study.root / _PICTURE
    with replace_file(file, contended=True) as staged:
        figure.savefig(staged, format="png", metadata={"Software": None})
    return f"importance of the parameters: {file}"


def _say(console: Console, text: str) -> None:
    console.print(text, soft_wrap=True, markup=False, highlight=False)
