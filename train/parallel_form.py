"""How the parameters of a run lie on its processes: what `--parallel` chooses from. Needs no torch."""

from __future__ import annotations

import re
from dataclasses import dataclass

from headrace.store.errors import UsageError

FORMS = "dp, fsdp or hsdp:RxS"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelForm:
    """Copies of the model, and processes that share one of them."""

    copies: int = 0
    """Copies of the model. 0: as many as it takes processes."""
    shards: int = 1
    """Processes that share a copy. 0: all of them."""

    @property
    def is_sharded(self) -> bool:
        """Whether a process keeps only a part of a parameter."""
        return self.shards != 1

    def sizes(self, processes: int) -> tuple[int, int]:
        """Return the numbers of copies and of processes that share one, for so many processes.

        Raises:
            UsageError: the form needs another number of them.
        """
        copies, shards = self.copies or processes // (self.shards or processes), self.shards or processes
        if copies * shards != processes:
            raise UsageError(
                f"hsdp:{copies}x{shards} is for {copies * shards} processes, and there are {processes}: let both "
                "numbers of --parallel multiply to theirs."
            )
        return copies, shards


DATA_PARALLEL = ParallelForm()
"""Each process has the whole model."""


def parse_form(text: str) -> ParallelForm:
    """Return the form that is called so: `dp`, `fsdp`, or `hsdp:RxS`, R copies of the model on S processes each.

    Raises:
        UsageError: there is none of this name.
    """
    if text == "dp":
        return DATA_PARALLEL
    if text == "fsdp":
        return ParallelForm(copies=1, shards=0)
    found = re.fullmatch(r"hsdp:([1-9][0-9]{0,5})x([1-9][0-9]{0,5})", text)
    if not found or int(found[2]) < 2:
        raise UsageError(
            f"parallel is {text!r}; choose {FORMS}, R copies of the model on S processes each, 2 or more: hsdp:2x4."
        )
    return ParallelForm(copies=int(found[1]), shards=int(found[2]))
