"""Checkpoints: everything that a run needs to continue as if it had never stopped.

A checkpoint is written under another name, synced to disk and renamed, so it never exists in part. The CRC-32 of each
record is checked before use, because `torch.load` would take a flipped bit for a weight.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from headrace.featurize.files import run_checkpoints, torch_archive
from headrace.store.advice import command
from headrace.store.errors import RunError
from headrace.store.storage.local import atomic_file, make_folder

FORMAT = 2
KEEP_NEWEST = 3
"""This many of the newest checkpoints are kept."""


class Checkpoints:
    """The checkpoints of a run: FOLDER/step-00000150.pt and so on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, step: int) -> Path:
        """Return the path of the checkpoint of a step."""
        return run_checkpoints.path_of(self.folder, step)

    def steps(self) -> list[int]:
        """Return the steps of the checkpoints that exist, ascending."""
        return run_checkpoints.steps_in(self.folder)

    def save(self, step: int, state: dict[str, Any], kept: Collection[int] = ()) -> Path:
        """Write the checkpoint of a step; of older ones only the newest and `kept` stay. Returns its path.

        `KEEP_NEWEST` stay in all.

        Those of later steps are damaged, since the run continued from an earlier one. They do not count, and stay until
        the run reaches their step.

        Args:
            state: tensors, numbers, strings, and lists and dicts of them. The format and the versions of what wrote it
                are added.
            kept: steps whose checkpoints stay however old they are.
        Raises:
            RunError: it cannot be written. Earlier checkpoints remain.
        """
        target = self.path(step)
        try:
            make_folder(self.folder)
            with atomic_file(target) as file:
                torch.save({"format": FORMAT, "step": step, "versions": software_versions(), **state}, file)
        except (OSError, RuntimeError) as error:
            raise self._write_error(target, error, state) from error
        for old in [earlier for earlier in self.steps() if earlier <= step][:-KEEP_NEWEST]:
            if old not in kept:
                with suppress(OSError):  # what cannot be deleted stays
                    self.path(old).unlink()
        return target

    def _write_error(self, target: Path, error: OSError | RuntimeError, state: Mapping[str, Any]) -> Exception:
        """Return the error to raise: torch's archive writer may hide an OSError in the context of a RuntimeError."""
        cause = error if isinstance(error, OSError) else error.__context__
        if not isinstance(cause, OSError):
            return error
        newest = f"step {self.steps()[-1]} is the newest there is" if self.steps() else "there is none yet"
        config = state.get("config")
        store = config.get("store", "STORE") if isinstance(config, Mapping) else "STORE"
        again = command("train run", store, "--out", self.folder.parent, "--resume")
        return RunError(
            f"Cannot write {target}: {cause.strerror}. Of the run's checkpoints, {newest}; make room and run {again}."
        )

    def load_newest(self) -> tuple[dict[str, Any], list[str]]:
        """Load the newest intact checkpoint. Returns it, and a message for each newer one that is damaged.

        Raises:
            RunError: there is none, or it was written by another version.
        """
        damaged: list[str] = []
        for step in reversed(self.steps()):
            path = self.path(step)
            try:
                return load(path), damaged
            except CorruptCheckpoint as fault:
                damaged.append(f"{path} is damaged ({fault}): trying the one before it")
        raise RunError(f"No checkpoint in {self.folder} can be used: start a new run with another --out.", *damaged)


class CorruptCheckpoint(Exception):
    """A checkpoint is damaged, or is none."""


def load(path: Path) -> dict[str, Any]:
    """Load a checkpoint onto the CPU.

    Checksums are verified at about 3 GB/s. Nothing in the file is executed.

    Raises:
        CorruptCheckpoint: the file cannot be read or is truncated, a record does not match its checksum, or it holds
            anything but data.
        RunError: it was written by another version.
    """
    try:
        state = torch_archive.load(path)
    except torch_archive.UnsafeError as error:
        raise CorruptCheckpoint(f"it holds other things than tensors and numbers: {', '.join(error.names)}") from error
    except torch_archive.CorruptedError as error:
        raise CorruptCheckpoint(str(error)) from error
    except OSError as error:
        raise CorruptCheckpoint(error.strerror or str(error)) from error
    except MemoryError:
        raise
    except Exception as error:  # whatever a parser makes of damaged bytes
        raise CorruptCheckpoint((str(error).strip() or type(error).__name__).splitlines()[0]) from error
    return checked(state, path)


def checked(state: Any, path: Path) -> dict[str, Any]:
    """Return what a file holds if that is a checkpoint. Raises as `load`."""
    if not isinstance(state, dict):
        raise CorruptCheckpoint(f"it holds a {type(state).__name__}")
    if type(state.get("format")) is not int or type(state.get("step")) is not int or state["step"] < 0:
        raise CorruptCheckpoint("it does not say its format and step")
    if state["format"] != FORMAT:
        raise RunError(f"{path} has format {state.get('format')}, this version reads {FORMAT}: start a new run.")
    return state


def random_state(device: torch.device) -> dict[str, Any]:
    """Return the states of torch's random generators on the CPU and on the device that this process trains on.

    Other devices are not asked: that would open a context on each, of hundreds of megabytes for every process.
    """
    return {"cpu": torch.get_rng_state(), "cuda": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else []}


def set_random_state(state: dict[str, Any], device: torch.device) -> None:
    """Restore `random_state` on the device that this process trains on.

    Args:
        state: it may have those of all devices of a machine, as earlier versions have saved them.
    """
    torch.set_rng_state(state["cpu"])
    if device.type == "cuda" and state["cuda"]:
        torch.cuda.set_rng_state(state["cuda"][device.index % len(state["cuda"])], device)


def tensor_bytes(state: Any) -> int:
    """Return the bytes of all tensors in nested dicts, lists and tuples: nearly those of a checkpoint of them."""
    if isinstance(state, torch.Tensor):
        return state.nbytes
    inner = state.values() if isinstance(state, Mapping) else state if isinstance(state, list | tuple) else ()
    return sum(map(tensor_bytes, inner))


def software_versions() -> dict[str, str]:
    """Return the versions of Headrace, torch and NumPy."""
    return {"headrace": version("headrace"), "torch": str(torch.__version__), "numpy": np.__version__}
