"""Results of `featurize` and `store` as tables on stdout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from headrace.cli.output import make_table, print_tables
from headrace.store.advice import BUILD_AGAIN, SHOWN_IDS, first_of
from headrace.store.rejects import RejectKind
from headrace.store.units import format_duration, format_hours, format_size

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from rich.table import Table

    from headrace.store.reader import Store
    from headrace.store.storage import StoragePath

MAX_ITEMS = 12
"""Items of a list that are printed; of the others only the number is."""
MAX_KINDS = 5
"""Kinds of rejects that are printed of a store."""


def print_survey(report: dict[str, Any]) -> None:
    """Print the result of `featurize scan`."""
    lengths, estimate = report["seconds"], report["estimate"]
    corpus = make_table()
    corpus.add_row("utterances", f"{report['utterances']:,} usable, {report['rejects']:,} rejected")
    corpus.add_row("audio", format_hours(report["hours"]))
    corpus.add_row(
        "lengths",
        f"{lengths['shortest']:.2f} s to {lengths['longest']:.1f} s, median {lengths['median']:.1f} s",
    )
    corpus.add_row("formats", _first_of(f"{name} ({count:,})" for name, count in report["formats"].items()))
    for key in ("languages", "speakers"):
        corpus.add_row(key, _first_of(f"{name} ({format_hours(hours)})" for name, hours in report[key].items()))
    corpus.add_row("aligned", f"{report['aligned']:,} with an alignment")
    _add_markup(corpus, report["markup"])
    if reason := report["symbols"]["reason"]:
        corpus.add_row("symbols", f"{report['symbols']['table']}: {reason}")
    if report["align_warning"]:
        corpus.add_row("", report["align_warning"])
    for name, advice in _COUNTED.items():
        if ids := estimate[name]:
            heard = f"{len(ids)} of the {estimate['calibration_utterances']} recordings that were decoded"
            corpus.add_row(name.replace("_", " "), f"in {heard} ({first_of(ids)}): {advice}")
    print_tables(corpus)
    _print_histogram(report["histogram"])
    _print_reject_kinds(report["reject_kinds"])
    if report["texts"]:
        _print_texts(report["texts"])
    table = make_table()
    table.add_row("store", f"{format_size(estimate['store_bytes'])} with preset {estimate['preset']}")
    table.add_row(
        "build",
        f"about {format_duration(estimate['seconds'])} with {estimate['workers']} workers "
        f"({estimate['hours_per_second']:.3f} h/s, from {estimate['calibration_seconds_of_audio']:.0f} s of audio)",
    )
    print_tables(table)


_COUNTED = {
    "dead_channels": "the mean of all channels makes them quieter; save the others alone, or select with "
    "dead_channels == 0",
    "clipped_samples": "they peak above full scale, and are clipped there; scale them down, or select with "
    "clipped_samples == 0",
}
"""What to do about recordings of which something was counted."""


def print_build(out: StoragePath, report: dict[str, Any]) -> None:
    """Print the result of `featurize build` or `store import`."""
    table = make_table()
    table.add_row("store", str(out))
    table.add_row("contains", f"{report['utterances']:,} utterances, {format_hours(report['hours'])}")
    table.add_row("rejects", _rejects([str(out / "rejects.jsonl")], report["rejects"]))
    _add_counted(table, report)
    _add_markup(table, report.get("markup", {}))
    built = f"{report['parts_built']} of {report['parts']} parts in {format_duration(report['seconds'])}"
    table.add_row("built", f"{built}, {report['hours_per_second']:.4f} h of audio per second")
    seconds_by_stage = report["seconds_by_stage"]
    if seconds_by_stage:
        total = sum(seconds_by_stage.values())
        table.add_row("time spent", _first_of(f"{name} {s / total:.0%}" for name, s in seconds_by_stage.items()))
    print_tables(table)
    _print_reject_kinds(report["reject_kinds"], MAX_KINDS)
    print_added(report.get("added", {}), report["wall_seconds_by_stage"], out / "build.json")


def _add_markup(table: Table, dropped: dict[str, int]) -> None:
    """Add a row that says what was dropped of texts, if anything was."""
    if dropped:
        total, kinds = sum(dropped.values()), (f"{mark} {count:,} x" for mark, count in dropped.items())
        table.add_row("markup", f"{total:,} dropped: {_first_of(kinds)}")


def print_added(added: dict[str, Any], wall_seconds_by_stage: dict[str, float], file: StoragePath) -> None:
    """Print the result of `featurize add`, and how long each stage of the command took.

    Args:
        file: of the store, in which all of it is.
    """
    table = make_table()
    for name, report in added.items():
        built = f"{report['parts_built']} of {report['parts']} parts in {format_duration(report['seconds'])}"
        rate = f", {report['hours_per_second']:.4f} h of audio per second" if report["parts_built"] else ""
        failed: dict[str, list[str]] = {}
        for each in report.get("failed", ()):
            failed.setdefault(each["reason"], []).append(each["id"])
        counts = "".join(f"; {n:,} {what}" for what, n in report["counts"].items() if what not in failed)
        table.add_row(name, built + rate + counts)
        for reason, ids in failed.items():
            table.add_row("", f"{len(ids):,} without {name} ({first_of(ids)}): {reason}")
        if any(len(ids) > SHOWN_IDS for ids in failed.values()):
            table.add_row("", f"all of them are under `failed` in {file}")
    if added:
        total = sum(wall_seconds_by_stage.values())
        shares = (f"{name} {format_duration(s)} ({s / total:.0%})" for name, s in wall_seconds_by_stage.items())
        table.add_row("took", f"{format_duration(total)}: {_first_of(shares)}")
    print_tables(table)


def _add_counted(table: Table, report: Mapping[str, Any]) -> None:
    """Add a row for each kind of recordings of which something was counted when they were decoded."""
    for name, advice in _COUNTED.items():
        if report[name]:
            table.add_row(name.replace("_", " "), f"in {report[name]:,} recording{'s' * (report[name] > 1)}: {advice}")


_NOT_RECORDED = "not recorded by the version that made the store; the next featurize build does it"


def _rejects(files: Sequence[str], count: int) -> str:
    """Describe how many utterances were rejected, and in which files the reasons are."""
    return f"{count:,}, each with its reason in {_first_of(files)}" if count else "none"


def print_split(out: Path, report: dict[str, Any]) -> None:
    """Print the result of `featurize split`."""
    table = make_table()
    table.add_row("list", str(out))
    share = report["hours"] / report["hours_of_recordings"]
    table.add_row("segments", f"{report['segments']:,}, {format_hours(report['hours'])}, {share:.0%} of the recordings")
    silent, unread = report["recordings_without_speech"], len(report["rejects"])
    others = f"; no speech in {silent:,} of them" * bool(silent) + f"; {unread:,} cannot be read" * bool(unread)
    table.add_row("recordings", f"{report['recordings']:,}{others}")
    for reason, total in report["dropped_by_reason"].items():
        places = (f"{d['audio']} at {d['start']:.1f} s" for d in report["dropped"] if d["reason"] == reason)
        left_out = f"{total['count']:,} pieces, {format_duration(total['seconds'])}: {reason} ({first_of([*places])})"
        table.add_row("left out", left_out)
    print_tables(table)
    _print_reject_kinds(report["reject_kinds"])


def print_joined_texts(out: Path, report: dict[str, Any]) -> None:
    """Print the result of `featurize join-texts`."""
    table = make_table()
    table.add_row("list", str(out))
    table.add_row("segments", f"{report['segments']:,}, {report['with_text']:,} of them with a text")
    for reason, count in report["without_text"].items():
        table.add_row("without text", f"{count:,}: {reason}")
    if outside := report["words_outside_segments"]:
        table.add_row("left out", f"{outside:,} words or sentences that are in no segment")
    table.add_row("results", f"{report['results']:,} used, {len(report['rejects']):,} not")
    print_tables(table)
    _print_reject_kinds(report["reject_kinds"])


def print_info(store: Store, summary: dict[str, Any]) -> None:
    """Print the result of `store info`."""
    table = make_table()
    table.add_row("store", str(store.path))
    table.add_row("preset", f"{summary['preset']}, {summary['sample_rate']} Hz, hop {summary['hop']}")
    table.add_row("contains", f"{summary['utterances']:,} utterances, {format_hours(summary['hours'])}")
    parts = f"{summary['parts']} of {summary['parts_planned']} sealed"
    table.add_row("parts", parts + ("" if summary["complete"] else f": {BUILD_AGAIN}"))
    lists = [member.path / "rejects.jsonl" for member in store.members]
    table.add_row("rejects", _rejects([str(file) for file in lists if file.exists()], summary["rejects"]))
    listed = f"{summary['listed']:,} utterances in the corpus" if summary["listed"] is not None else _NOT_RECORDED
    table.add_row("listed", listed)
    for key in ("speakers", "languages"):
        table.add_row(key, _first_of(f"{name} ({count:,})" for name, count in summary[key].items()))
    table.add_row("aligned", _first_of(f"{name} ({count:,})" for name, count in summary["alignments"].items()))
    _add_counted(table, summary)
    table.add_row("read", summary["reading"])
    columns = ("name", "axis", "dtype", "row", "fingerprint", "size")
    features = make_table(*columns)
    for feature in summary["features"]:
        features.add_row(*(str(feature[key]) for key in columns))
    print_tables(table, features)
    _print_reject_kinds(summary["reject_kinds"], MAX_KINDS)


def _print_histogram(histogram: dict[str, int]) -> None:
    edges, largest = list(histogram), max(histogram.values()) or 1
    table = make_table()
    for edge, above in zip(edges, [*edges[1:], ""], strict=True):
        count = histogram[edge]
        label = f"{edge} to {above} s" if above else f"over {edge} s"
        table.add_row(label, "█" * round(40 * count / largest), f"{count:,}")
    print_tables(table)


def _print_reject_kinds(kinds: Sequence[dict[str, Any]], most: int = MAX_ITEMS) -> None:
    """Print the most frequent kinds of rejects, each with its stage, its count and an example."""
    table = make_table()
    for kind in kinds[:most]:
        table.add_row(kind["stage"], str(RejectKind(**kind)))
    if len(kinds) > most:
        table.add_row("", f"and {len(kinds) - most} further kinds; --json lists them all")
    print_tables(table)


def _print_texts(texts: dict[str, Any]) -> None:
    """Print what reading the texts found before anything is decoded."""
    table = make_table()
    sample = f", a random sample of {texts['utterances']:,}" if texts["read"] < texts["utterances"] else ""
    share = f" ({texts['rejects'] / texts['read']:.1%})" if texts["rejects"] else ""
    table.add_row("texts", f"{texts['read']:,} read{sample}: {texts['rejects'] or 'none'} would be rejected{share}")
    print_tables(table)
    _print_reject_kinds(texts["reject_kinds"])


def _first_of(items: Iterable[str]) -> str:
    listed = list(items)
    rest = f" and {len(listed) - MAX_ITEMS} more" if len(listed) > MAX_ITEMS else ""
    return ", ".join(listed[:MAX_ITEMS]) + rest
