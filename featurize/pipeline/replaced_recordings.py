"""Notice recordings that were replaced by others of the same size since the parts of a store were sealed.

The seal of a part has a checksum of each recording, with its alignment file or whatever else was read for it.
`modified.json` has, for each part, a digest of the times at which these files were last modified. Where that differs at
the next build, the contents are compared: a corpus that was only touched or copied is the same. In a bucket entity tags
stand for both, so an object that was uploaded again in other pieces counts as replaced.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from headrace.featurize.pipeline import build_report
from headrace.featurize.pipeline.contents import UNKNOWN, checksum, is_replaced
from headrace.featurize.pipeline.part_worker import PartTask
from headrace.store import index, layout
from headrace.store.errors import StoreError
from headrace.store.schema import Utterance, digest
from headrace.store.storage import StoragePath, read_file

FILE = "modified.json"
_THREADS = 8
_SHOWN = 5


def check(out: StoragePath, tasks: Sequence[PartTask], note: Callable[[str], None]) -> Callable[[], None]:
    """Check that the sealed parts were made of the recordings that the corpus has now.

    Args:
        tasks: of all parts; sealed ones have the inputs that they were made from.
    Returns:
        A function that writes the times of the recordings, to be called once the store has a root.
    Raises:
        StoreError: recordings were replaced.
    """
    before = _read(out)
    now = {f"{task.number:05d}": digest([utterance.modified for utterance in task.utterances]) for task in tasks}
    touched = {int(number) for number in now if before.get(number) != now[number]}.intersection(
        layout.sealed_parts(out)
    )
    suspects = [task for task in tasks if task.number in touched]
    seals = index.read_seals(out, [task.number for task in suspects])
    changed = _changed([pair for pair in zip(suspects, seals, strict=True) if pair[1].get("contents")], note)
    if changed:
        raise StoreError(
            f"{len(changed)} recordings were replaced since {out} was made of them: build into another --out, or "
            "remove the folders of these parts and run the same command again.",
            *(f"{layout.part_path(out, number)}: {id}" for number, id in changed[:_SHOWN]),
            *([f"and {len(changed) - _SHOWN} more"] if len(changed) > _SHOWN else []),
        )
    return (lambda: build_report.write(out, FILE, json.dumps(now) + "\n")) if before != now else (lambda: None)


def _changed(parts: Sequence[tuple[PartTask, Mapping[str, Any]]], note: Callable[[str], None]) -> list[tuple[int, str]]:
    """Return part and id of the utterances whose recordings have other contents than the seals say."""
    known: list[tuple[PartTask, Utterance, str]] = []
    for task, seal in parts:
        contents, count = seal["contents"], len(UNKNOWN)
        each = [contents[start : start + count] for start in range(0, len(contents), count)]
        known += [(task, u, crc) for u, crc in zip(task.utterances, each, strict=False) if crc != UNKNOWN]
    if not known:
        return []
    note(f"{len(known)} recordings were touched or copied since they were read: comparing their contents")

    def differs(item: tuple[PartTask, Utterance, str]) -> bool:
        task, utterance, crc = item
        return is_replaced(crc, checksum(task.corpus, utterance, task.files_of(utterance)))

    with ThreadPoolExecutor(_THREADS) as pool:
        return [
            (task.number, utterance.id)
            for (task, utterance, _), found in zip(known, pool.map(differs, known), strict=True)
            if found
        ]


def _read(out: StoragePath) -> dict[str, str]:
    """Return the digests of times by part; none if the file is missing or damaged."""
    try:
        found = json.loads(read_file(out / FILE))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
