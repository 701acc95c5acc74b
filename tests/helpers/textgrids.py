"""TextGrids as Praat and aligners write them."""

from __future__ import annotations

from pathlib import Path

Intervals = list[tuple[float, float, str]]


def write_textgrid(
    path: Path, tiers: dict[str, Intervals], stop_s: float, *, encoding: str = "utf-8", points: str = ""
) -> Path:
    """A TextGrid in the long text form, its intervals as they are given, mistakes and all."""
    lines = ['File type = "ooTextFile"', 'Object class = "TextGrid"', "", "xmin = 0", f"xmax = {stop_s!r}"]
    lines += ["tiers? <exists>", f"size = {len(tiers) + bool(points)}", "item []:"]
    for number, (name, tier) in enumerate(tiers.items(), 1):
        lines += [f"item [{number}]:", 'class = "IntervalTier"', f'name = "{name}"', "xmin = 0", f"xmax = {stop_s!r}"]
        lines += [f"intervals: size = {len(tier)}"]
        for n, (start, end, label) in enumerate(tier, 1):
            lines += [f"intervals [{n}]:", f"xmin = {start!r}", f"xmax = {end!r}", f'text = "{label}"']
    if points:
        lines += [f"item [{len(tiers) + 1}]:", 'class = "TextTier"', f'name = "{points}"', "xmin = 0"]
        lines += [f"xmax = {stop_s!r}", "points: size = 1", "points [1]:", "number = 0.1", 'mark = "x"']
    path.write_bytes("\n".join(lines).encode(encoding))
    return path
