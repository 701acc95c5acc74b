"""Deletes what is damaged, so that it can be made again, and keeps everything that is intact.

A repair that is killed at any moment leaves a store that can be repaired again: each part or array is deleted at once,
and what depends on it (the index, the features that the root names) is corrected afterwards and checked every time.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from headrace.store import added_arrays, index, json_text, layout, rejects
from headrace.store.advice import command, is_imported
from headrace.store.errors import DamagedStore, StoreError
from headrace.store.integrity import scan_record
from headrace.store.integrity.foreign import find_foreign, foreign_in_part
from headrace.store.integrity.part_checks import Problem
from headrace.store.integrity.verify import OnProgress, check_is_store, verify
from headrace.store.names import check_names
from headrace.store.root_attributes import read_attributes
from headrace.store.storage import StoragePath, read_file, storage_of
from headrace.store.writer import write_parts_group


@dataclass(frozen=True, slots=True, kw_only=True)
class RepairReport:
    """The parts and arrays that a repair deletes, and the commands to run after it."""

    problems: tuple[Problem, ...]
    """All problems that were found."""
    parts: tuple[int, ...]
    """Numbers of the parts that are deleted."""
    arrays: tuple[tuple[int, str], ...]
    """Part and name of the added arrays that are deleted while their part stays."""
    withdrawn: tuple[str, ...]
    """Features that are removed from the root, because not every part has them."""
    index: bool
    """Whether the index is written again."""
    group: bool
    """Whether `parts/zarr.json` is written again."""
    rejects: bool
    """Whether `rejects.jsonl` is written again, from the record of the scan and the seals of the parts."""
    commands: tuple[str, ...]
    """Commands that make again what is missing."""
    foreign: tuple[str, ...] = ()
    """What lies in the store and is not the store's. It stays."""
    kept: tuple[int, ...] = ()
    """Numbers of damaged parts that stay, because they hold something foreign."""

    @property
    def unrepairable(self) -> tuple[Problem, ...]:
        """Return the problems that deleting does not solve: inconsistencies, parts that are kept, and a damaged root or
        record of the scan."""
        staying = ("", "root", "scan")
        return tuple(problem for problem in self.problems if problem.drop in staying or problem.part in self.kept)


def repair(root: StoragePath, *, dry_run: bool = False, watch: OnProgress = lambda done, parts: None) -> RepairReport:
    """Verify a store and delete what is damaged.

    Args:
        dry_run: change nothing.
        watch: called after each part that was verified.
    Raises:
        NotAStore: `root` is not a store.
        StoreError: another command is writing the store, or nothing in it is intact.
    """
    check_is_store(root)
    with nullcontext() if dry_run else storage_of(root).write_lock(root):
        steps = plan(root, list(verify(root, watch=watch)))
        if {*steps.parts, *steps.kept} == set(layout.sealed_parts(root)) and any(
            p.drop == "root" for p in steps.problems
        ):
            raise StoreError(f"Nothing in {root} is as this version wrote it: build another store.")
        if not dry_run:
            _delete_damaged(root, steps)
    return steps


def plan(root: StoragePath, problems: Iterable[Problem]) -> RepairReport:
    """Return what to do about these problems. Changes nothing."""
    problems = tuple(problems)
    intact = all(problem.drop != "root" for problem in problems)
    attributes: Mapping[str, Any] = read_attributes(root) if intact else {"features": ()}
    damaged = sorted({problem.part for problem in problems if problem.drop == "part" and problem.part is not None})
    features = [spec["name"] for spec in attributes["features"]]
    kept = [number for number in damaged if foreign_in_part(root, number, features)]
    parts = [number for number in damaged if number not in kept]
    arrays = [problem for problem in problems if problem.drop == "array"]
    complete = intact and not parts and len(layout.sealed_parts(root)) == attributes["plan"]["parts"]
    scan_lost = any(problem.drop == "scan" for problem in problems)
    named = [spec["name"] for spec in attributes["features"] if "seals" in spec]
    lost = {problem.array for problem in arrays}
    withdrawn = [name for name in named if name in lost or not complete]
    return RepairReport(
        problems=problems,
        parts=tuple(parts),
        arrays=tuple(sorted({(p.part, p.array) for p in arrays if p.part is not None and p.part not in damaged})),
        withdrawn=tuple(withdrawn),
        index=bool(parts) or not _has_index(root) or any(problem.drop == "index" for problem in problems),
        group=any(problem.drop == "group" for problem in problems),
        rejects=any(problem.drop == "rejects" for problem in problems) or _list_is_old(root, attributes, parts),
        commands=tuple(_commands(root, attributes, complete and not scan_lost, sorted(lost.union(withdrawn)))),
        foreign=tuple(find_foreign(root, features)),
        kept=tuple(kept),
    )


def _has_index(root: StoragePath) -> bool:
    return (root / "index" / "zarr.json").exists()


def _list_is_old(root: StoragePath, attributes: Mapping[str, Any], deleted: Sequence[int]) -> bool:
    """Return whether the list of rejects is another one than the record of the scan and the seals that stay say."""
    try:
        return scan_record.is_recorded(attributes) and (bool(deleted) or not rejects.is_current(root))
    except DamagedStore:
        return False


def _write_rejects(root: StoragePath) -> None:
    """Write the list of rejects again: all of them, or, without a record of the scan, those that can be read too."""
    try:
        rejects.write_derived(root)
    except DamagedStore:
        listed, _ = rejects.read(root)
        rejects.write(root, dict.fromkeys([*listed, *rejects.sealed(root, layout.sealed_parts(root))]))


def _commands(root: StoragePath, attributes: Mapping[str, Any], complete: bool, features: list[str]) -> list[str]:
    build = [] if complete else [command("featurize build CORPUS --out", root) + _options(root)]
    if build and is_imported(spec["recipe"] for spec in attributes["features"] if isinstance(spec, dict)):
        build = [command("store import DIR --out", root)]
    return [*build, *([command("featurize add", root, ",".join(features))] if features else [])]


def _options(root: StoragePath) -> str:
    """Return the options of the last build, as far as its report has them."""
    try:
        built = json_text.parse(read_file(root / "build.json"))
        preset, features = str(built["preset"]), ",".join(built["features"])
        check_names(built["features"], root / "build.json")
        check_names([re.sub("[.-]", "_", preset)], root / "build.json")
    except (OSError, ValueError, KeyError, TypeError, DamagedStore):
        return ", with the options that you built it with"
    return f" {'--recipe FILE' if preset == 'custom' else f'--preset {preset}'} --features {features}"


def _delete_damaged(root: StoragePath, steps: RepairReport) -> None:
    storage_of(root).clear_temporary(root)
    if steps.index:
        index.delete(root)
    for number, name in steps.arrays:
        storage_of(root).delete_folder(root, f"{layout.part_name(number)}/{name}")
    for number in steps.parts:
        storage_of(root).delete_folder(root, layout.part_name(number))
    if steps.withdrawn:
        added_arrays.withdraw(root, steps.withdrawn)
    if steps.index:
        index.write(root, index.derive(root))
    if steps.group:
        write_parts_group(root)
    if steps.rejects:
        _write_rejects(root)
    storage_of(root).clear_temporary(root)
