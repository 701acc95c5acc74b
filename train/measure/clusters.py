"""Which form of parallel training fits a cluster of graphics cards, and which is the fastest: arithmetic, not a run.

The work of an update is counted on this device: floating-point operations, kernels, bytes of gradients and weights.
What a card, a link and a launch do in a second are published figures, and the shares of them that training gets.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch.utils._python_dispatch import TorchDispatchMode

from headrace.store.errors import UsageError
from headrace.train.parallel_form import ParallelForm, parse_form

LAUNCH_S = 5e-6
"""Seconds of the host for each kernel."""
COMPUTE_SHARE = 0.35
"""Share of a card's peak that matrix products and convolutions get."""
LINK_SHARE = 0.7
"""Share of a link's rate that collective operations get."""
BACKWARD_SHARE = 2 / 3
"""Share of a step's time in its backward pass, under which gradients are sent."""
NETWORK_GBIT = 100.0
"""Gbit/s of a machine to the others, where none are given."""
GIGABIT = 1e9 / 8


@dataclass(frozen=True, slots=True)
class Card:
    """Published figures of a graphics card."""

    gib: float
    """Memory that a program can use."""
    half: float
    """Tera-operations in a second in float16 or bfloat16, dense."""
    single: float
    """The same in TF32, or float32 where it has none."""
    link: float
    """GB/s in each direction to the other cards of a machine, by NVLink or else PCIe."""


CARDS = {
    "T4": Card(15.0, 65, 8.1, 12),
    "V100": Card(31.7, 125, 15.7, 150),
    "A100 40": Card(39.4, 312, 156, 300),
    "L40S": Card(44.5, 362, 183, 25),
    "A100 80": Card(79.2, 312, 156, 300),
    "H100": Card(79.2, 989, 494, 450),
    "H200": Card(139.8, 989, 494, 450),
}


@dataclass(frozen=True, slots=True)
class Cluster:
    """Machines of equal cards."""

    machines: int
    cards: int
    """Of each machine."""
    name: str
    """Of a card, in `CARDS`."""

    @property
    def processes(self) -> int:
        """One for each card."""
        return self.machines * self.cards

    def __str__(self) -> str:
        machines = f"{self.machines}x" if self.machines > 1 else ""
        return f"{machines}{self.cards}x{self.name.replace(' ', '-')}"


@dataclass(frozen=True, slots=True, kw_only=True)
class DecoderWork:
    """What decides whether the layers of a decoder are worth dividing."""

    layers: int
    heads: int
    parameters: int
    """Of all layers."""
    hidden_bytes: float
    """Of the hidden states that one layer passes on, of a mean batch."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateWork:
    """What an update of one process takes, counted."""

    flop: float
    kernels: float
    batches: int
    """Forward and backward passes of it."""
    parameters: int
    gathered: int
    """Parameters of which a process that shares a model has the whole at one time, at most."""
    half: bool
    """Whether the networks run in half precision."""
    decoder: DecoderWork | None = None
    """None for a model whose layers cannot be divided."""


def parse_clusters(text: str) -> tuple[Cluster, ...]:
    """Return clusters such as `8xH100` and `2x8xA100-40`, two machines of eight cards, separated by commas.

    Raises:
        UsageError: one is written otherwise, or there is no such card.
    """
    known = {name.replace(" ", "-").lower(): name for name in CARDS}
    clusters = []
    for part in text.split(","):
        found = re.fullmatch(r"(?:([1-9]\d{0,5})x)?(?:([1-9]\d{0,5})x)?(.+)", part.strip())
        name = known.get(found[3].lower()) if found else None
        if not found or name is None:
            raise UsageError(
                f"cards has {part.strip()!r}; give [MACHINESx]CARDSxNAME, such as 8xH100 or 2x8xA100-40, of "
                f"{', '.join(name.replace(' ', '-') for name in CARDS)}."
            )
        first, second = int(found[1] or 1), int(found[2] or 0)
        clusters.append(Cluster(first if second else 1, second or first, name))
    return tuple(clusters)


def forms_for(cluster: Cluster, decoder: DecoderWork | None) -> list[str]:
    """Return the forms that differ on a cluster. Layers are divided within a machine."""
    cards = cluster.cards
    if cluster.processes == 1:
        return ["dp"]
    forms = ["dp", "fsdp"]
    if cluster.machines > 1 and cards > 1:
        forms.append(f"hsdp:{cluster.machines}x{cards}")
    if decoder and cards > 1 and decoder.heads % cards == 0:
        forms.append(f"tp:{cards}")
    if decoder and cards > 1 and decoder.layers >= cards:
        forms.append(f"pp:{cards}x{2 * cards}")
    return forms


def update_seconds(work: UpdateWork, cluster: Cluster, form: ParallelForm, network_gbit: float) -> dict[str, float]:
    """Return the seconds of an update: `compute_s`, `sent_s` (of collective operations), and both as they overlap.

    Args:
        network_gbit: Gbit/s of each machine to the others.
    """
    card, (copies, shards) = CARDS[cluster.name], form.sizes(cluster.processes)
    peak = COMPUTE_SHARE * 1e12 * (card.half if work.half else card.single)
    compute = max(work.kernels * LAUNCH_S, work.flop / peak)
    size = 4.0 * work.parameters
    inside = LINK_SHARE * 1e9 * card.link
    between = LINK_SHARE * GIGABIT * network_gbit
    if form.kind in ("tp", "pp"):
        return _divided_layers(work, cluster, form, peak, inside, between)
    if not form.is_sharded:
        sent = _ring(2 * size, cluster, inside, between)
        return {"compute_s": compute, "sent_s": sent, "update_s": max(compute, sent + compute * (1 - BACKWARD_SHARE))}
    within = Cluster(-(-shards // cluster.cards), min(shards, cluster.cards), cluster.name)
    sent = work.batches * _ring(3 * size, within, inside, between)
    if copies > 1:  # each card sums its part with those that have the same
        sent += 2 * (copies - 1) / copies * size / shards / (between / cluster.cards)
    return {"compute_s": compute, "sent_s": sent, "update_s": max(compute, sent)}


def _divided_layers(
    work: UpdateWork, cluster: Cluster, form: ParallelForm, peak: float, inside: float, between: float
) -> dict[str, float]:
    """Return the seconds of an update where processes divide the layers of a decoder."""
    (copies, shards), decoder = form.sizes(cluster.processes), work.decoder
    assert decoder is not None
    one = Cluster(1, shards, cluster.name)
    if form.kind == "tp":  # each layer sums twice forward and twice backward, a ring goes round twice, nothing hides it
        compute = max(work.kernels * LAUNCH_S, work.flop / shards / peak)
        sent = work.batches * 4 * decoder.layers * _ring(2 * decoder.hidden_bytes, one, inside, between)
        sent += _ring(4.0 * (work.parameters - decoder.parameters), one, inside, between)
        update = compute + sent
    else:  # each part of a batch is a launch of a stage's kernels; while a pipeline fills and empties, stages wait
        parts = form.microbatches
        compute = max(parts * work.kernels * LAUNCH_S, work.flop / peak) / shards * (1 + (shards - 1) / parts)
        sent = work.batches * 2 * decoder.hidden_bytes / inside
        update = max(compute, sent)
    if copies > 1:  # each card sums its part with those that have the same
        of_copies = 2 * (copies - 1) / copies * 4.0 * work.parameters / shards / (between / cluster.cards)
        sent, update = sent + of_copies, max(update, of_copies + compute * (1 - BACKWARD_SHARE))
    return {"compute_s": compute, "sent_s": sent, "update_s": update}


def _ring(size: float, cluster: Cluster, inside: float, between: float) -> float:
    """Return the seconds in which each card of a ring passes on this many bytes but what it has itself."""
    count = cluster.processes
    slowest = min(inside, between) if cluster.machines > 1 else inside
    return (count - 1) / count * size / slowest if count > 1 else 0.0


def state_bytes(work: UpdateWork, form: ParallelForm, processes: int) -> tuple[float, float]:
    """Return the bytes of weights and moments, with weights that are gathered, and of gradients, of one process."""
    shards = form.sizes(processes)[1]
    if shards == 1:
        return 12.0 * work.parameters, 4.0 * work.parameters
    if form.kind in ("tp", "pp"):
        assert work.decoder is not None
        whole = work.parameters - work.decoder.parameters
        own = work.decoder.parameters / shards + whole  # of a pipeline, the first or the last has that
        moments = work.parameters / shards if form.kind == "tp" else own
        return 4.0 * own + 8.0 * moments, 4.0 * own
    return 12.0 * work.parameters / shards + 4.0 * work.gathered, 4.0 * (work.parameters / shards + work.gathered)


def compare(
    work: UpdateWork,
    clusters: Sequence[Cluster],
    rooms: Mapping[tuple[Cluster, str], int],
    *,
    frames: int,
    batches: int,
    epochs: int,
    network_gbit: float,
) -> list[dict[str, Any]]:
    """Return a row for each cluster and form: what it takes, whether it fits, and which is the fastest of those.

    Args:
        rooms: the largest `batch_frames` that fits, by cluster and form.
        frames: `batch_frames` of the run.
        batches: of an epoch.
    """
    rows = []
    for cluster in clusters:
        of_cluster = []
        for name in forms_for(cluster, work.decoder):
            form, room = parse_form(name), rooms[cluster, name]
            seconds = update_seconds(work, cluster, form, network_gbit)
            updates = -(-batches // (cluster.processes // form.readers_share * work.batches))
            state, gradients = state_bytes(work, form, cluster.processes)
            row: dict[str, Any] = {
                "cards": str(cluster),
                "parallel": name,
                "state_gib": (state + gradients) / 2**30,
                "room": room,
            }
            row |= {"fits": room >= frames, **seconds, "hours": epochs * updates * seconds["update_s"] / 3600}
            of_cluster.append(row)
        fitting = [row for row in of_cluster if row["fits"]]
        best = min(fitting, key=lambda row: row["hours"], default=None)  # the simplest of those that are as fast
        rows += [row | {"fastest": row is best} for row in of_cluster]
    return rows


class KernelCounter(TorchDispatchMode):
    """Counts operations that compute something: each is a kernel, or several, of a device."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returns = func._schema.returns
        self.count += not (returns and all(r.alias_info is not None and not r.alias_info.is_write for r in returns))
        return func(*args, **(kwargs or {}))
