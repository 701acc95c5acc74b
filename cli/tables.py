"""Tables for people: what a corpus holds, what a build did, what a store is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from headrace.store.units import format_duration, format_hours, format_size

if TYPE_CHECKING:
    from headrace.store.reader import Store
    from headrace.store.storage import StoragePath

MOST = 12
"""Rows of a list that is shown in part."""


def print_survey(report: dict[str, Any]) -> None:
    """The result of `featurize scan`, on stdout."""
    lengths, estimate = report["seconds"], report["estimate"]
    table = _table()
    table.add_row("utterances", f"{report['utterances']:,} usable, {report['rejects']:,} rejected")
    table.add_row("audio", format_hours(report["hours"]))
    table.add_row(
        "lengths",
        f"{lengths['shortest']:.2f} s to {lengths['longest']:.1f} s, median {lengths['median']:.1f} s",
    )
    table.add_row("formats", _some(f"{kind} ({count:,})" for kind, count in report["formats"].items()))
    table.add_row("languages", _some(f"{k} ({format_hours(v)})" for k, v in report["languages"].items()))
    table.add_row("speakers", _some(f"{k} ({format_hours(v)})" for k, v in report["speakers"].items()))
    table.add_row("aligned", f"{report['aligned']:,} with a TextGrid")
    _print(table)
    _print_histogram(report["histogram"])
    _print_problems(report["problems"])
    table = _table()
    table.add_row("store", f"{format_size(estimate['store_bytes'])} with preset {estimate['preset']}")
    table.add_row(
        "build",
        f"about {format_duration(estimate['seconds'])} with {estimate['workers']} workers "
        f"({estimate['hours_per_second']:.3f} h/s, from {estimate['calibration_seconds_of_audio']:.0f} s of audio)",
    )
    _print(table)


def print_build(out: StoragePath, account: dict[str, Any]) -> None:
    """The result of `featurize build`, on stdout."""
    table = _table()
    table.add_row("store", str(out))
    table.add_row("holds", f"{account['utterances']:,} utterances, {format_hours(account['hours'])}")
    table.add_row("rejects", _rejects(out, account["rejects"]))
    built = f"{account['parts_built']} of {account['parts']} parts in {format_duration(account['seconds'])}"
    table.add_row("built", f"{built}, {account['hours_per_second']:.4f} h of audio per second")
    stages = account["seconds_by_stage"]
    if stages:
        total = sum(stages.values())
        table.add_row("time went to", _some(f"{name} {spent / total:.0%}" for name, spent in stages.items()))
    _print(table)
    print_added(account.get("added", {}))


def print_added(added: dict[str, Any]) -> None:
    """The result of `featurize add`, on stdout."""
    table = _table()
    for name, account in added.items():
        made = f"{account['parts_built']} of {account['parts']} parts in {format_duration(account['seconds'])}"
        rate = f", {account['hours_per_second']:.4f} h of audio per second" if account["parts_built"] else ""
        counts = "".join(f"; {count:,} {what}" for what, count in account["counts"].items())
        table.add_row(name, made + rate + counts)
    _print(table)


def _rejects(out: StoragePath, count: int) -> str:
    return f"{count:,}, each with its reason in {out / 'rejects.jsonl'}" if count else "none"


def print_info(store: Store, report: dict[str, Any]) -> None:
    """The result of `store info`, on stdout."""
    table = _table()
    table.add_row("store", str(store.path))
    table.add_row("preset", f"{report['preset']}, {report['sample_rate']} Hz, hop {report['hop']}")
    table.add_row("holds", f"{report['utterances']:,} utterances, {format_hours(report['hours'])}")
    parts = f"{report['parts']} of {report['parts_planned']} sealed"
    table.add_row("parts", parts + ("" if report["complete"] else ": run featurize build again to finish"))
    table.add_row("rejects", _rejects(store.path, report["rejects"]))
    table.add_row("speakers", _some(f"{k} ({v:,})" for k, v in report["speakers"].items()))
    table.add_row("languages", _some(f"{k} ({v:,})" for k, v in report["languages"].items()))
    table.add_row("aligned", f"{report['aligned']:,}")
    table.add_row("read", report["reading"])
    _print(table)
    features = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    columns = ("name", "axis", "dtype", "row", "fingerprint", "size")
    for heading in columns:
        features.add_column(heading)
    for feature in report["features"]:
        features.add_row(*(str(feature[key]) for key in columns))
    _print(features)


def _print_histogram(histogram: dict[str, int]) -> None:
    edges, most = list(histogram), max(histogram.values()) or 1
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    for edge, above in zip(edges, [*edges[1:], ""], strict=True):
        count = histogram[edge]
        label = f"{edge} to {above} s" if above else f"over {edge} s"
        table.add_row(label, "█" * round(40 * count / most), f"{count:,}")
    _print(table)


def _print_problems(problems: dict[str, int]) -> None:
    table = _table()
    for reason, count in list(problems.items())[:MOST]:
        table.add_row(f"{count:,} rejected", reason)
    if len(problems) > MOST:
        table.add_row("", f"and {len(problems) - MOST} further reasons; --json lists them all")
    _print(table)


def _table() -> Table:
    table = Table(box=None, show_header=False, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _some(items: Any) -> str:
    shown = list(items)
    rest = f" and {len(shown) - MOST} more" if len(shown) > MOST else ""
    return ", ".join(shown[:MOST]) + rest


def _print(table: Table) -> None:
    if table.row_count:
        Console(highlight=False, markup=False).print(table)
