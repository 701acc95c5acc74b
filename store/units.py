"""Quantities as people read them."""

from __future__ import annotations


def format_hours(hours: float) -> str:
    """Format hours of audio: 1.5 -> `1.50 h`, 0.02 -> `1.2 min`."""
    return f"{hours:,.2f} h" if hours >= 1 else f"{hours * 60:.1f} min"


def format_size(count: float) -> str:
    """Format a number of bytes in powers of 1024: 3435973837 -> `3.2 GiB`."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    raise AssertionError("unreachable")


def format_duration(seconds: float) -> str:
    """Format a time span: 75 -> `1 min 15 s`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = [(hours, "h"), (minutes, "min"), (rest, "s")]
    nonzero = [f"{count} {unit}" for count, unit in parts if count]
    return " ".join(nonzero[:2]) or f"{seconds:.1f} s"
