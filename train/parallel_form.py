"""How the parameters of a run lie on its processes: what `--parallel` chooses from. Needs no torch."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from headrace.store.errors import UsageError

SCHEDULES = ("gpipe", "1f1b", "interleaved")
FORMS = "dp, fsdp, hsdp:RxS, tp:N or pp:SxM"


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelForm:
    """Copies of the model, and processes that share one of them."""

    kind: Literal["dp", "fsdp", "tp", "pp"] = "dp"
    """`dp`: each process has the whole model. Else what a process keeps: `fsdp` a part of each parameter, `tp` heads
    and hidden channels of each layer, `pp` some of the layers."""
    copies: int = 0
    """Copies of the model. 0: as many as it takes processes."""
    shards: int = 1
    """Processes that share a copy. 0: all of them."""
    microbatches: int = 1
    """pp only: parts of a batch that are on their way through the processes."""
    schedule: str = "1f1b"
    """pp only: the order in which a process computes them."""

    @property
    def is_sharded(self) -> bool:
        """Whether a process keeps only a part of the model."""
        return self.kind != "dp"

    @property
    def readers_share(self) -> int:
        """Processes that read the same batches: those that compute parts of the same utterances."""
        return self.shards if self.kind in ("tp", "pp") else 1

    @property
    def noise_share(self) -> int:
        """Processes that draw the same random numbers: those that compute the same layers."""
        return self.shards if self.kind == "tp" else 1

    def sizes(self, processes: int) -> tuple[int, int]:
        """Return the numbers of copies and of processes that share one, for so many processes.

        Raises:
            UsageError: the form needs another number of them.
        """
        copies, shards = self.copies or processes // (self.shards or processes), self.shards or processes
        if copies * shards == processes:
            return copies, shards
        if self.kind == "fsdp":
            raise UsageError(
                f"hsdp:{copies}x{shards} is for {copies * shards} processes, and there are {processes}: let both "
                "numbers of --parallel multiply to theirs."
            )
        raise UsageError(
            f"{self.kind}:{shards} is for {shards} processes, or a multiple of that, and there are {processes}: give "
            "--parallel a number that divides theirs."
        )


DATA_PARALLEL = ParallelForm()
"""Each process has the whole model."""
_ANY, _SEVERAL = r"([1-9]\d{0,5})", r"([2-9]|[1-9]\d{1,5})"
_FORMS: dict[str, Callable[..., ParallelForm]] = {
    "dp": lambda: DATA_PARALLEL,
    "fsdp": lambda: ParallelForm(kind="fsdp", copies=1, shards=0),
    f"hsdp:{_ANY}x{_SEVERAL}": lambda copies, shards: ParallelForm(kind="fsdp", copies=int(copies), shards=int(shards)),
    f"tp:{_SEVERAL}": lambda shards: ParallelForm(kind="tp", shards=int(shards)),
    f"pp:{_SEVERAL}(?:x{_ANY})?": lambda stages, parts: ParallelForm(
        kind="pp", shards=int(stages), microbatches=int(parts or 2 * int(stages))
    ),
}


def parse_form(text: str) -> ParallelForm:
    """Return the form that is called so.

    `dp`; `fsdp`; `hsdp:RxS`, R copies of the model on S processes each; `tp:N`, layers cut over N processes; `pp:SxM`,
    layers in S stages through which M parts of a batch go, twice as many as stages where that is not said.

    Raises:
        UsageError: there is none of this name.
    """
    for pattern, form in _FORMS.items():
        if found := re.fullmatch(pattern, text, re.ASCII):
            return form(*found.groups())
    raise UsageError(
        f"parallel is {text!r}; choose {FORMS}: hsdp:2x4 are 2 copies of the model on 4 processes each, tp:2 cuts each "
        "layer in 2, pp:2x4 sends 4 parts of a batch through 2 stages of layers."
    )
