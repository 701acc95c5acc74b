"""Checks that a store is what was sealed, and that it is consistent.

Checksums show that the bytes are those that were written. Consistency shows that what was written makes sense.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from typing import Any

from headrace.store import added_arrays, index, json_text, layout, learned_models, rejects
from headrace.store.advice import command
from headrace.store.errors import DamagedStore, NotAStore
from headrace.store.integrity import checksummed_metadata, scan_record
from headrace.store.integrity.part_checks import Problem, check_part
from headrace.store.root_attributes import read_attributes
from headrace.store.schema import FeatureSpec
from headrace.store.storage import StoragePath, read_file, storage_of
from headrace.store.writer import PARTS_GROUP, has_parts_group

OnProgress = Callable[[int, int], None]
"""Called with the number of parts that are done and the number of all parts."""


def verify(
    root: StoragePath, *, quick: bool = False, watch: OnProgress = lambda done, parts: None
) -> Iterator[Problem]:
    """Yield every problem of a store; an intact store has none.

    Args:
        quick: compare only the sizes of features' data files, without reading them.
        watch: called after each part.
    Raises:
        NotAStore: `root` is not a store.
    """
    check_is_store(root)
    numbers = layout.sealed_parts(root)
    try:
        checksummed_metadata.read(root / "zarr.json")
        attributes = read_attributes(root)
    except DamagedStore:
        yield Problem(what="zarr.json is not there, or not what was written", drop="root")
        yield from _verify_parts(root, numbers, {}, quick, watch)
        return
    if not has_parts_group(root):
        yield Problem(
            what=f"{PARTS_GROUP} is not there, or not what was written: run {command('store repair', root)}",
            drop="group",
        )
    there, planned = set(numbers), range(attributes["plan"]["parts"])
    missing = len(planned) - sum(number in planned for number in there)
    if missing:
        first = next(number for number in planned if number not in there)
        yield Problem(what=f"{missing} parts are not sealed yet, the first is {first:05d}")
    specs = [FeatureSpec.from_json(spec) for spec in attributes["features"]]
    intact = True
    for problem in _verify_parts(root, numbers, {spec.name: spec for spec in specs}, quick, watch):
        intact = intact and not problem.drop
        yield problem
    if intact:
        yield from _verify_index(root, numbers)
    if intact and not missing:
        yield from check_sums(root, attributes, numbers)
        yield from _verify_features(root, attributes, numbers)
        yield from _verify_rejects(root, attributes, numbers)
    elif scan_record.is_recorded(attributes):
        yield from _verify_record(root)


def check_is_store(root: StoragePath) -> None:
    """Raise NotAStore unless there is the root of a store, or parts of one. Changes nothing."""
    try:
        checksummed_metadata.read(root / "zarr.json")
    except DamagedStore:
        if not layout.sealed_parts(root):
            raise NotAStore(f"{root} is not a Headrace store, nor are there parts of one.") from None


def _verify_parts(
    root: StoragePath, numbers: Sequence[int], specs: Mapping[str, FeatureSpec], quick: bool, watch: OnProgress
) -> Iterator[Problem]:
    """Check the parts in threads: reading and checksums release the interpreter's lock."""
    pool = ThreadPoolExecutor(storage_of(root).threads)
    try:
        found = pool.map(partial(check_part, root, named=specs, quick=quick), numbers)
        for done, problems in enumerate(found, 1):
            watch(done, len(numbers))
            yield from problems
    finally:
        pool.shutdown(cancel_futures=True)


def _verify_index(root: StoragePath, numbers: Sequence[int]) -> Iterator[Problem]:
    """Check that the index is what was written, and agrees with the seals. Without an index, readers derive one."""
    if not (root / "index" / "zarr.json").exists():
        return
    try:
        found = index.read(root, check=True)
        for columns in (found.columns, found.names):
            for name in columns:
                columns[name]  # compares checksums
        same = found.fingerprint == index.fingerprint(numbers, index.read_seals(root, numbers))
    except DamagedStore:
        same = False
    if not same:
        yield Problem(what=f"does not agree with the parts: run {command('store repair', root)}", drop="index")


def check_sums(root: StoragePath, attributes: Mapping[str, Any], numbers: Sequence[int]) -> Iterator[Problem]:
    """Check that what the parts stored and rejected sums to the plan, and with the rejects of the scan to all listed.

    Reads the seals of the parts, which must be intact, and the record of the scan, but no data.

    Args:
        attributes: of the root.
        numbers: of the parts of a complete store.
    """
    seals = index.read_seals(root, numbers)
    counted = sum(seal["utterances"] + len(seal["rejects"]) for seal in seals)
    planned = attributes["plan"]["utterances"]
    if counted != planned:
        yield Problem(what=f"{counted} utterances stored or rejected, {planned} planned")
    if not scan_record.is_recorded(attributes):
        return
    try:
        found = rejects.account(root, attributes, numbers)
    except DamagedStore:
        yield from _verify_record(root)
        return
    if found.stored + found.rejected != found.listed:
        yield Problem(what=f"{found.stored} utterances stored and {found.rejected} rejected, {found.listed} listed")


def _verify_record(root: StoragePath) -> Iterator[Problem]:
    """Check the record of the scan."""
    try:
        scan_record.read(root)
    except DamagedStore:
        what = f"{scan_record.FILE} is not there, or not what was written: {scan_record.REMEDY}"
        yield Problem(what=what, drop="scan")


def _verify_features(root: StoragePath, attributes: Mapping[str, Any], numbers: Sequence[int]) -> Iterator[Problem]:
    """Check that the root names what the parts have, and that there is an index."""
    specs = {spec["name"]: FeatureSpec.from_json(spec) for spec in attributes["features"]}
    for name in learned_models.features_without_model(root, specs):
        yield Problem(
            array=name, what=f"was made with another {learned_models.model_file(name)} than is there: put it back"
        )
    for feature in attributes["features"]:
        name = feature["name"]
        if "seals" in feature and feature["seals"] != added_arrays.seals_digest(root, name, numbers):
            yield Problem(array=name, what="is not the one that was named in zarr.json", drop="array")
    if not (root / "index" / "zarr.json").exists():
        yield Problem(what=f"is not there: run {command('store repair', root)}", drop="index")


def _verify_rejects(root: StoragePath, attributes: Mapping[str, Any], numbers: Sequence[int]) -> Iterator[Problem]:
    """Check that the list of rejects is the one that is derived from the record of the scan and the seals."""
    if not scan_record.is_recorded(attributes):
        yield from _verify_list(root, numbers)
        return
    with suppress(DamagedStore):  # the record, which is told elsewhere
        if not rejects.is_current(root):
            state = "is not the list of all rejects" if (root / rejects.FILE).exists() else "is not there"
            yield Problem(what=f"{rejects.FILE} {state}: run {command('store repair', root)}", drop="rejects")


def _verify_list(root: StoragePath, numbers: Sequence[int]) -> Iterator[Problem]:
    """Check the list of rejects of a store without a record of its scan: it has those that the parts were sealed with.

    Builds write one.
    """
    listed, unreadable = rejects.read(root)
    if not (root / rejects.FILE).exists() and not (root / "build.json").exists():
        return
    missing = len(Counter(rejects.sealed(root, numbers)) - Counter(listed))
    if unreadable or missing:
        what = f"{unreadable} lines cannot be read, {missing} rejects of the parts are missing"
        yield Problem(what=f"{rejects.FILE}: {what}: run {command('store repair', root)}", drop="rejects")
        return
    try:
        counted = int(json_text.parse(read_file(root / "build.json"))["rejects"])
    except (OSError, ValueError, KeyError, TypeError, OverflowError):
        return
    if len(listed) < counted:
        what = f"has {len(listed)} rejects, build.json counted {counted}: run featurize build again, which lists them"
        yield Problem(what=f"{rejects.FILE} {what}")
