"""Text decoders whose layers lie on several processes, through which parts of each batch go one after the other.

Each process has some of the layers, the first one the embeddings too and the last one the prediction and the loss. All
read the same batch, and only hidden states and their gradients are sent. Schedules are torch's own: GPipe (Huang et al.
2019), 1F1B (Narayanan et al. 2019), and 1F1B with two stages on each process (Narayanan et al. 2021).

Shapes: B batch, a multiple of the parts that it is sent in; L positions, C channels.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import fields, replace
from itertools import pairwise, repeat
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.pipelining import PipelineStage, Schedule1F1B, ScheduleGPipe, ScheduleInterleaved1F1B

from headrace.store.errors import UsageError
from headrace.train.distributed import DividedLayers, ReductionOptions, agreed
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.stages.gpt_inputs import GptInputs

CLASSES: dict[str, Any] = {"gpipe": ScheduleGPipe, "1f1b": Schedule1F1B, "interleaved": ScheduleInterleaved1F1B}
SUMS = ("loss", "predictions", "correct", "codes")
"""What the last stage counts of a batch."""
SAMPLE = (4, 48, 128)
"""Utterances, phones and codes of the batch by which layers are measured."""

Score = Callable[[GptInputs, Tensor], tuple[Tensor, dict[str, Tensor]]]
"""Inputs and logits to the log likelihood of each sequence, (B,), and `SUMS`."""


class PipelinedDecoder(DividedLayers):
    """A decoder whose layers lie on several processes, and its optimiser."""

    def __init__(
        self,
        network: Text2SemanticDecoder,
        optimizer: torch.optim.Optimizer,
        *,
        mesh: DeviceMesh,
        options: ReductionOptions,
        device: torch.device,
        compute: StageCompute,
    ) -> None:
        """Divide the layers of a decoder, and move this process's to the device.

        Args:
            network, mesh, device: as for `DividedLayers`.
            options: likewise; their form says in how many parts a batch is sent, and in which order.
        Raises:
            UsageError: there are more stages than layers, or the schedule needs another number of parts.
        """
        self._compute = compute
        self._microbatches, self._schedule = options.form.microbatches, options.form.schedule
        stages = check_stages(len(network.h.layers), mesh.size(1), self._schedule, self._microbatches)
        bounds = agreed(balanced(layer_costs(network), stages))
        self._layers = [range(first, last) for first, last in pairwise(bounds)]
        super().__init__(network, optimizer, mesh=mesh, options=options, device=device)

    @property
    def layers(self) -> list[range]:
        """Layers of each stage; process p has stages p, p + P, ..."""
        return self._layers

    def run(self, inputs: GptInputs) -> dict[str, Tensor]:
        """Compute a batch forward and backward, and add its gradients. All processes of the pipeline call this.

        Returns:
            `SUMS` of the batch, 0-d without gradient: on the last stage's process, and zeros on others.
        """
        padded = with_rows(inputs, -(-len(inputs.phones_n) // self._microbatches) * self._microbatches)
        schedule = self._make_schedule(padded)
        named = {field.name: getattr(padded, field.name) for field in fields(GptInputs)}
        batch = {name: value for name, value in named.items() if isinstance(value, Tensor)}
        self._compute.sums.clear()
        self._compute.scale(torch.zeros((), device=self._device))  # torch's scaler begins with a loss, which one has
        is_first, is_last = 0 in self._stages(), len(self._layers) - 1 in self._stages()
        target = torch.zeros(len(padded.phones_n), device=self._device) if is_last else None
        with _own_errors():
            schedule.step(*([padded.phones] if is_first else []), target=target, return_outputs=False, **batch)
        if not is_last:
            return {name: torch.zeros((), device=self._device) for name in SUMS}
        return {name: torch.stack([of_part[name] for of_part in self._compute.sums]).sum() for name in SUMS}

    def expect_last(self) -> None:
        """Do nothing: gradients are summed over copies of the model in `finish`."""

    def _stages(self) -> range:
        """Return the stages of this process."""
        return range(self.part, len(self._layers), self._size)

    def _make_schedule(self, inputs: GptInputs) -> Any:
        """Make the schedule of a batch. It keeps hidden states of all its parts, and is given up after it."""
        rows, phones, codes = len(inputs.phones_n) // self._microbatches, inputs.phones.shape[1], inputs.codes.shape[1]
        network, last = self.network, len(self._layers) - 1
        assert isinstance(network, Text2SemanticDecoder)
        hidden = torch.empty(rows, phones + codes, network.config.channels, device="meta")
        stages = [
            PipelineStage(
                _Stage(network, self._layers[number], self._compute, is_last=number == last),
                number,
                last + 1,
                self._device,
                input_args=hidden if number else torch.empty(rows, phones, dtype=torch.int64, device="meta"),
                output_args=torch.empty(rows, device="meta") if number == last else hidden,
                group=self._group,
            )
            for number in self._stages()
        ]
        held = stages if self._schedule == "interleaved" else stages[0]
        return CLASSES[self._schedule](held, self._microbatches, loss_fn=self._compute.loss, scale_grads=False)

    def _divide(self) -> dict[str, nn.Parameter]:
        """Keep the parameters of this process's stages; others become empty."""
        network = self.network
        assert isinstance(network, Text2SemanticDecoder)
        stage_of = {id(layer): n for n, layers in enumerate(self._layers) for layer in _at(network.h.layers, layers)}
        self._owner = {}
        for path, module in network.named_modules():
            for name, parameter in list(module.named_parameters(path, recurse=False)):
                stage = self._stage_of(name, stage_of, network)
                self._owner[name] = stage % self._size
                if self._owner[name] != self.part:
                    empty = nn.Parameter(parameter.new_empty(0), requires_grad=parameter.requires_grad)
                    setattr(module, name.rpartition(".")[2], empty)
        network.to(self._device)
        return dict(network.named_parameters())

    def _stage_of(self, name: str, stage_of: dict[int, int], network: Text2SemanticDecoder) -> int:
        """Return the stage that has a parameter."""
        if name.startswith("h.layers."):
            return stage_of[id(network.h.layers[int(name.split(".")[2])])]
        return len(self._layers) - 1 if name.startswith("ar_predict_layer.") else 0

    def _part_gradient(self, name: str, part: nn.Parameter) -> Tensor:
        assert part.grad is not None, "it is in a bucket"
        return part.grad

    def _cut(self, name: str, whole: Tensor) -> Tensor:
        return whole if self._owner[name] == self.part else whole.new_empty(0)

    def _gather(self, name: str, part: Tensor) -> Tensor:
        owner = self._owner[name]
        whole = part.contiguous() if owner == self.part else part.new_empty(self._shapes[name])
        dist.broadcast(whole, group=self._group, group_src=owner)
        return whole


class StageCompute:
    """How stages compute: the same on all processes, and for all shapes."""

    def __init__(
        self,
        *,
        autocast: Callable[[], AbstractContextManager[Any]],
        score: Score,
        scale: Callable[[Tensor], Tensor],
        activation_checkpointing: bool,
    ) -> None:
        """
        Args:
            autocast: the context of a forward pass.
            scale: of a loss, for half precision.
        """
        self.autocast, self.score, self.scale = autocast, score, scale
        self.activation_checkpointing = activation_checkpointing
        self.sums: list[dict[str, Tensor]] = []
        """What the last stage has counted of each part of a batch."""

    def loss(self, likelihood_B: Tensor, _: Tensor) -> Tensor:
        """Return the loss of what the last stage gives, ()."""
        return self.scale(-likelihood_B.sum())


class _Stage(nn.Module):
    """Layers that follow one another, with what comes before the first or after the last of all."""

    def __init__(self, network: Text2SemanticDecoder, layers: range, compute: StageCompute, *, is_last: bool) -> None:
        super().__init__()
        self._network, self._layers, self._compute, self._is_last = network, layers, compute, is_last

    def forward(self, x: Tensor, **batch: Any) -> Tensor:
        """Return hidden states (B, L, C), or of the last stage the log likelihood of each sequence, (B,).

        Args:
            x: hidden states; of the first stage, phones.
            batch: fields of `GptInputs`.
        """
        inputs, network = GptInputs(**batch), self._network
        with self._compute.autocast():
            if self._layers.start == 0:
                x = network.pack(inputs.phones, inputs.phones_n, inputs.codes, inputs.codes_n, inputs.bert)
            attention = network.attention(x, inputs.phones_n, inputs.phones.shape[1])
            hidden_BLC = network.h(
                x,
                repeat(attention),
                activation_checkpointing=self._compute.activation_checkpointing,
                layers=self._layers,
            )
            if not self._is_last:
                return hidden_BLC
            logits = network.predict(hidden_BLC, inputs.phones_n, inputs.codes.shape[1])
        likelihood_B, sums = self._compute.score(inputs, logits)
        self._compute.sums.append(sums)
        return likelihood_B


@contextmanager
def _own_errors() -> Iterator[None]:
    """Raise that memory ran out as such: torch raises another error from it, which names all that a stage was given."""
    try:
        yield
    except RuntimeError as error:
        if isinstance(error.__cause__, torch.OutOfMemoryError):
            raise error.__cause__ from None
        raise


def with_rows(inputs: GptInputs, rows: int) -> GptInputs:
    """Return inputs with so many rows: utterances are added of which nothing counts."""
    missing = rows - len(inputs.phones_n)
    if not missing:
        return inputs

    def padded(values: Tensor, value: int) -> Tensor:
        return F.pad(values, (0, 0) * (values.dim() - 1) + (0, missing), value=value)

    return replace(
        inputs,
        phones=padded(inputs.phones, 0),
        phones_n=padded(inputs.phones_n, 1),
        codes=padded(inputs.codes, 0),
        codes_n=padded(inputs.codes_n, -1),  # not even its end counts
        bert=None if inputs.bert is None else padded(inputs.bert, 0),
    )


def balanced(costs: Sequence[float], stages: int) -> list[int]:
    """Return where stages begin, and the last one ends, so that the slowest of them takes least.

    Args:
        costs: seconds of each layer.
    """
    count = len(costs)
    best: dict[tuple[int, int], tuple[float, list[int]]] = {(0, 0): (0.0, [0])}
    for stage in range(1, stages + 1):
        for end in range(stage, count + 1):
            found = [
                (max(best[stage - 1, start][0], sum(costs[start:end])), [*best[stage - 1, start][1], end])
                for start in range(stage - 1, end)
                if (stage - 1, start) in best
            ]
            best[stage, end] = min(found)
    return best[stages, count][1]


def layer_costs(network: Text2SemanticDecoder) -> list[float]:
    """Measure the seconds of a pass through each layer, forward and backward, with what comes before and after all."""
    config = network.config
    device = network.ar_predict_layer.weight.device
    rows, phones, codes = SAMPLE
    phones_BX = torch.zeros(rows, phones, dtype=torch.int64, device=device)
    codes_BY = torch.zeros(rows, codes, dtype=torch.int64, device=device)
    phones_n, codes_n = (torch.full((rows,), n, device=device) for n in (phones, codes))
    hidden = torch.zeros(rows, phones + codes, config.channels, device=device)

    def first() -> Tensor:
        return network.pack(phones_BX, phones_n, codes_BY, codes_n, None).sum()

    def layer() -> Tensor:
        return network.h.layers[0](hidden, network.attention(hidden, phones_n, phones)).sum()

    def last() -> Tensor:
        return network.predict(hidden, phones_n, codes).logsumexp(2).sum()

    with torch.random.fork_rng([device] if device.type == "cuda" else []):  # dropout is the run's
        before, one, after = (min(_seconds(call, network) for _ in range(3)) for call in (first, layer, last))
    costs = [one] * len(network.h.layers)
    costs[0] += before
    costs[-1] += after
    return costs


def _seconds(call: Callable[[], Tensor], network: nn.Module) -> float:
    """Return the seconds that a computation and its gradient take."""
    start = time.perf_counter()
    parameters = [parameter for parameter in network.parameters() if parameter.requires_grad]
    torch.autograd.grad(call(), parameters, allow_unused=True)
    if parameters[0].is_cuda:
        torch.cuda.synchronize(parameters[0].device)
    return time.perf_counter() - start


def check_stages(layers: int, processes: int, schedule: str, microbatches: int) -> int:
    """Return how many stages a schedule makes of so many layers.

    Raises:
        UsageError: there are fewer layers, or the schedule is not for so many parts of a batch.
    """
    stages = processes * (2 if schedule == "interleaved" else 1)
    if layers < stages:
        raise UsageError(
            f"pp:{processes} with the schedule {schedule} makes {stages} stages, and this model has {layers} layers: "
            "give --parallel fewer."
        )
    if (schedule == "1f1b" and microbatches < processes) or (schedule == "interleaved" and microbatches % processes):
        multiple = "a multiple of " if schedule == "interleaved" else "at least "
        raise UsageError(
            f"The schedule {schedule} sends {multiple}{processes} parts through {processes} processes, and --parallel "
            f"says {microbatches}: give pp:{processes}x{2 * processes}."
        )
    return stages


def _at(layers: nn.ModuleList, numbers: range) -> list[nn.Module]:
    return [layers[number] for number in numbers]
