"""Word durations."""

from __future__ import annotations


def format_duration(seconds: float) -> str:
    """Word a duration in its two largest units, without a zero: ``3 h 20 min``, ``2 min 5 s``, ``2 min``, ``8 s``."""
    minutes, rest = divmod(round(seconds), 60)
    units = {"h": minutes // 60, "min": minutes % 60, "s": 0 if minutes >= 60 else rest}
    return " ".join(f"{number} {unit}" for unit, number in units.items() if number) or "0 s"
