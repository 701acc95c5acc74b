"""Read Lhotse Shar: manifests of cuts, each beside a tar of their recordings with the same number."""

from __future__ import annotations

import re
from collections.abc import Iterator

from headrace.featurize.corpus.entry import Entries
from headrace.featurize.corpus.formats import lhotse_cuts
from headrace.featurize.files.folders import AUDIO_SUFFIXES, join
from headrace.featurize.files.source import Source
from headrace.store.errors import CorpusError, Rejected
from headrace.store.schema import Reject

CUTS = re.compile(r"cuts(\.\d+)?\.jsonl(?:\.gz)?")


def read_shar(source: Source) -> Entries:
    """Read `cuts.000000.jsonl.gz` and `recording.000000.tar`, and further shards of them, in any folder.

    A recording is named after its cut, and begins and ends with it. Tars of other fields are not read.
    """
    for manifest, shard in _shards(source):
        if isinstance(manifest, Reject):
            yield manifest
            continue

        def find(id: str, shard: str = shard) -> str:
            names = (f"{shard}/{id}{suffix}" for suffix in AUDIO_SUFFIXES)
            found = next(filter(source.exists, names), "")
            if not found:
                raise Rejected("scan", "there is no recording of it in the tar of its shard")
            return found

        try:
            yield from lhotse_cuts.read_cuts(source, manifest, find)
        except CorpusError as error:
            yield Reject(manifest, "scan", str(error))


def _shards(source: Source) -> Iterator[tuple[str | Reject, str]]:
    """Yield the path of each manifest, or a reject of a folder, with that of its tar of recordings."""
    for item in source.walk():
        if isinstance(item, Reject):
            yield item, ""
            continue
        folder, names = item
        for name in names:
            if match := CUTS.fullmatch(name):
                yield join(folder, name), join(folder, f"recording{match[1] or ''}.tar")
