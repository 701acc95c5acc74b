"""Copies of a run's checkpoints at a second place, for machines whose disk may vanish.

PLACE/
  config.json                             as in the folder of the run
  metrics.jsonl                           up to the newest checkpoint, at least
  checkpoints/step-00000150.pt            the same ones as in the folder of the run
  checkpoints/step-00000150.pt.sha256     its digest, as sha256sum writes it

PLACE is a folder or a prefix of a bucket. A checkpoint comes after all that it needs, and its digest after it: without
one it does not count.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Collection, Iterator
from contextlib import suppress
from pathlib import Path

from headrace.featurize.files.run_checkpoints import step_of
from headrace.store.errors import RunError, StorageError, UsageError
from headrace.store.storage import StoragePath, parse_path, read_file, storage_of
from headrace.store.storage.local import DRAFT_FILE, atomic_file, clear_drafts, make_folder
from headrace.train.checkpoints.checkpoint import KEEP_NEWEST, Checkpoints
from headrace.train.config import RunConfig, changes_for_life
from headrace.train.distributed.phases import PHASES

CHECKPOINTS = "checkpoints"
CONFIG, METRICS = "config.json", "metrics.jsonl"
DIGEST = ".sha256"
CHUNK_BYTES = 8 << 20


class CheckpointCopies:
    """The copies of the run in the folder `out`."""

    def __init__(self, out: Path, place: StoragePath) -> None:
        """
        Raises:
            UsageError: the place lies in the folder of the run, or is a file.
        """
        if isinstance(place, Path):
            if out.resolve() in (place.resolve(), *place.resolve().parents):
                raise UsageError(f"--checkpoint-to {place} lies in the folder of the run: name another place.")
            if place.exists() and not place.is_dir():
                raise UsageError(f"--checkpoint-to {place} is a file: name a folder.")
        self.place = place
        self._folder = place / CHECKPOINTS
        self._out = out
        self._home = Checkpoints(out / CHECKPOINTS)

    def steps(self) -> list[int]:
        """Return the steps of the whole checkpoints at the place, ascending.

        Raises:
            StorageError, OSError: it cannot be reached.
        """
        storage_of(self.place).check_access(self.place)
        names = set(storage_of(self._folder).list_names(self._folder))
        found = {step_of(name) for name in names if name + DIGEST in names}
        return sorted(step for step in found if step is not None)

    def check_unused(self) -> None:
        """Check that a run may begin to keep its copies here. Writes nothing.

        Raises:
            RunError: a run has copies here.
            UsageError: other things are here.
            StorageError, OSError: the place cannot be reached.
        """
        if self.steps():
            raise RunError(f"{self.place} holds copies of a run: continue it with --resume, or name another place.")
        names = set(storage_of(self.place).list_names(self.place)) - {CONFIG, METRICS, CHECKPOINTS}
        if foreign := sorted(name for name in names if not DRAFT_FILE.fullmatch(name)):
            raise UsageError(
                f"--checkpoint-to {self.place} is not empty and holds no copies of a run ({foreign[0]!r} is there): "
                "name a new or an empty place."
            )

    def begin(self, config: RunConfig) -> None:
        """Write config.json to the place, and clear what killed runs left there.

        Raises:
            RunError: the copies there are of another run.
            RunError, StorageError: nothing can be written there.
        """
        try:
            self._check_run(config)
            if isinstance(self.place, Path):
                for folder in (self.place, self.place / CHECKPOINTS):
                    clear_drafts(folder)
            self._copy(CONFIG)
        except OSError as error:
            raise RunError(
                f"Checkpoints cannot be copied to {self.place} ({error.strerror}): give another place by "
                "--checkpoint-to, or leave it out."
            ) from error

    def update(self, step: int, kept: Collection[int]) -> None:
        """Copy the checkpoint of a step, and earlier ones that are missing; then delete old ones, as the run does.

        Args:
            kept: steps whose checkpoints stay, as for `Checkpoints.save`.
        Raises:
            StorageError, OSError: a file cannot be copied. Those that were copied before stay whole.
        """
        there = set(self.steps()) - {step}
        self._copy(METRICS)
        at_home = [earlier for earlier in self._home.steps() if earlier <= step]
        for one in sorted(set(at_home) - there, reverse=True):
            self._copy_checkpoint(self._home.path(one).name)
        whole = [earlier for earlier in self.steps() if earlier <= step]
        for old in whole[:-KEEP_NEWEST]:
            if old not in kept:
                self._delete_checkpoint(self._home.path(old).name)

    def restore(self, log: Callable[[str], object]) -> None:
        """Copy everything back into the folder of the run, which has no checkpoint.

        The newest checkpoint comes after all that it needs and before older ones, so that an interrupted restoration is
        either repeated or complete enough.

        Args:
            log: receives a message, and one for each copy that is damaged.
        Raises:
            RunError: there is no whole copy.
            StorageError, OSError: the place cannot be reached.
        """
        steps = self.steps()
        make_folder(self._home.folder)
        for name in {CONFIG, METRICS} & set(storage_of(self.place).list_names(self.place)):
            with atomic_file(self._out / name) as file:
                file.write(read_file(self.place / name))
        restored = [step for step in reversed(steps) if self._restore_checkpoint(self._home.path(step).name, log)]
        if not restored:
            raise RunError(f"{self.place} has no whole copy of a checkpoint: start a new run with another place.")
        log(f"restored from {self.place}: the checkpoint of step {restored[0]}")

    def _check_run(self, config: RunConfig) -> None:
        """Check that the copies are of a run with these options. Raises RunError otherwise."""
        storage_of(self.place).check_access(self.place)
        saved = config
        with suppress(FileNotFoundError, ValueError, KeyError, TypeError, UsageError):  # a damaged one is replaced
            saved = RunConfig.from_json(json.loads(read_file(self.place / CONFIG)))
        if changed := [option for option, _, _ in changes_for_life(saved, config)]:
            raise RunError(
                f"{self.place} holds copies of a run with another {' and '.join(changed)}: name another place."
            )

    def _restore_checkpoint(self, name: str, log: Callable[[str], object]) -> bool:
        """Copy a checkpoint back if it has its digest."""
        PHASES.beat()
        expected = read_file(self._folder / (name + DIGEST)).decode(errors="replace").partition(" ")[0]
        with suppress(_Damaged), atomic_file(self._home.folder / name) as file:
            storage_of(self._folder).copy_to(self._folder / name, Path(file.name))
            with Path(file.name).open("rb") as copied:
                if hashlib.file_digest(copied, "sha256").hexdigest() != expected:
                    log(f"{self._folder / name} is damaged (it does not have its digest), and left out")
                    raise _Damaged
            return True
        return False

    def _copy_checkpoint(self, name: str) -> None:
        """Copy a checkpoint, and then its digest. Until that is there, it does not count."""
        storage_of(self._folder).delete_file(self._folder, name + DIGEST)
        chunks = self._copy(f"{CHECKPOINTS}/{name}")
        storage_of(self._folder).write_whole(
            self._folder / (name + DIGEST), [f"{chunks.digest.hexdigest()}  {name}\n".encode()]
        )

    def _delete_checkpoint(self, name: str) -> None:
        for file in (name + DIGEST, name):
            storage_of(self._folder).delete_file(self._folder, file)

    def _copy(self, name: str) -> _Chunks:
        """Copy a file of the run to the same name at the place."""
        target = self.place
        for part in name.split("/"):
            target = target / part
        chunks = _Chunks(self._out / name)
        storage_of(target).write_whole(target, chunks)
        if storage_of(target).size(target) != chunks.size:
            raise StorageError(f"{target} has another size than what was written to it.")
        return chunks


class _Damaged(Exception):
    """A copy does not have its digest."""


class _Chunks:
    """The bytes of a file, which can be iterated again, and what they were the last time."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.size, self.digest = 0, hashlib.sha256()

    def __iter__(self) -> Iterator[bytes]:
        self.size, self.digest = 0, hashlib.sha256()
        with self._file.open("rb") as opened:
            while chunk := opened.read(CHUNK_BYTES):
                self.size += len(chunk)
                self.digest.update(chunk)
                yield chunk


def copies_of(out: Path, place: str) -> CheckpointCopies | None:
    """Return the copies of a run at a place that is given as an option; None where it is empty."""
    return CheckpointCopies(out, parse_path(place)) if place else None
