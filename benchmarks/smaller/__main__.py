"""Speed and size of pruned models and of `small`, beside v2; and what they lose, beside a teacher.

    python -m benchmarks.smaller [--train STORE | --quantize VOICE] [--rounds N] [--seeds N] [--scale X]

Speeds are of random weights at v2's sizes, on one thread: sovits says 3 s from 75 codes, gpt makes 75 codes after 40
phones. In every round each model takes its turn. Times are those of the processor, and the best round counts.

With --train, on a store of real speech: a teacher of preset tiny is trained; then students, without the teacher, with
its weights alone, and with what it says, and a pruned teacher, all for as many steps. Students are to tiny what `small`
is to v2: the decoder of sovits has half the channels, and gpt half the layers. --scale makes all trainings shorter or
longer.

With --quantize, on a trained voice: it is exported in INT8 as it is, and trained for INT8 first, and what both say is
compared with what it says in float32, on utterances that it was not trained on.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
import torch

from benchmarks import report
from benchmarks.smaller import int8
from headrace.train.config import RunConfig
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.presets import PRESETS, Preset
from headrace.train.models.sampling import generate_semantic
from headrace.train.models.sampling_config import SamplingConfig
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.monitoring import metrics
from headrace.train.trainer import loop
from headrace.train.trainer.pruned_run import narrowed, prune_run

SHARE = 0.3
CODES, PHONES = 75, 40
STEPS = {"gpt": (400, 200), "sovits": (200, 100)}
"""Stage to the steps of the teacher, and of those that begin with it."""
OPTIONS: dict[str, Any] = {"device": "cpu", "batch_frames": 1500, "grad_accum": 1, "checkpoint_every": 10_000}
LOSSES = {"gpt": "loss", "sovits": "loss_mel"}
UNTAUGHT = 1e-9
"""Weight of a teacher that gives a student its weights, and says nothing to it."""
SPEED_HEAD = ("stage", "model", "parameters, M", "half precision, MB", "CPU s", "times as fast as v2")
LOSS_HEAD = ("stage", "model", "parameters, M", "seed", "steps", "validation loss")


def speak(sizes: Any) -> Callable[[], object]:
    """A function that says something with a generator of these sizes."""
    model = SynthesizerTrn(sizes).eval()
    codes, phones = torch.arange(CODES)[None], torch.arange(PHONES)[None]
    spec, frames = torch.rand(1, sizes.spec_bins, 150), torch.tensor([150])
    return torch.no_grad()(lambda: model.decode(codes, phones, torch.tensor([PHONES]), spec, frames))


def generate(sizes: Any) -> Callable[[], object]:
    """A function that makes codes with a decoder of these sizes."""
    model, config = Text2SemanticDecoder(sizes).eval(), SamplingConfig(min_codes=CODES, max_codes=CODES)
    return lambda: generate_semantic(model, torch.arange(PHONES), config)


def parameters(sizes: Any) -> float:
    """Millions of parameters that speaking needs."""
    with torch.device("meta"):
        model = Text2SemanticDecoder(sizes) if isinstance(sizes, GptConfig) else SynthesizerTrn(sizes)
    named = model.named_parameters()
    return sum(value.numel() for name, value in named if not name.startswith("enc_q.")) / 1e6


def speeds(rounds: int) -> list[tuple[Any, ...]]:
    """Rows of the table of speeds."""
    rows: list[tuple[Any, ...]] = []
    for stage, run in (("sovits", speak), ("gpt", generate)):
        v2 = getattr(PRESETS["v2"], stage)
        sizes = {"v2": v2, "v2 pruned 30 %": narrowed(v2, SHARE), "small": getattr(PRESETS["small"], stage)}
        if stage == "gpt":
            sizes |= {"v2, 30 % of layers too": narrowed(v2, SHARE, SHARE)}
        models = {name: run(one) for name, one in sizes.items()}
        best = dict.fromkeys(models, float("inf"))
        for _ in range(rounds + 1):  # the first one allocates
            for name, call in models.items():
                start = time.process_time()
                call()
                best[name] = min(best[name], time.process_time() - start)
        for name, one in sizes.items():
            count = parameters(one)
            rows.append((stage, name, count, 2 * count, best[name], f"{best['v2'] / best[name]:.2f}"))
    return rows


def student() -> Preset:
    """Of tiny what `small` is of v2, with the codebook of the teacher."""
    sovits, gpt = PRESETS["tiny"].sovits, PRESETS["tiny"].gpt
    return Preset(
        sovits=replace(sovits, n_layers=2, upsample_initial_channel=64, codebook_size=1024),
        gpt=replace(gpt, layers=2, codes=1024),
    )


def train(store: Path, out: Path, stage: str, steps: int, **options: Any) -> float:
    """Train, and return the last validation loss."""
    given = OPTIONS | options | {"max_steps": steps, "validate_every": steps, "stage": stage}
    if out.exists():
        loop.resume(out, {"max_steps": steps, "validate_every": steps})
    else:
        loop.start(RunConfig.from_options(store=store, out=out, **given))
    found = [one for one in metrics.read(out / "metrics.jsonl") if one["split"] == "validation"]
    return float(found[-1][LOSSES[stage]])


def losses(store: Path, folder: Path, stage: str, seeds: int, scale: float) -> list[tuple[Any, ...]]:
    """Rows of the table of losses."""
    first, more = (max(2, round(scale * steps)) for steps in STEPS[stage])
    teacher, same = folder / f"{stage}-teacher", {"learning_rate": 1e-3} if stage == "sovits" else {}
    if stage == "gpt":
        same = {"optimizer": "adamw", "warmup_steps": 20, "learning_rate": 1e-3}
    whole, small = getattr(PRESETS["tiny"], stage), getattr(PRESETS["small"], stage)
    if stage == "gpt":
        whole = replace(whole, codes=small.codes)  # those of the store, as a run of preset tiny takes them
    rows: list[tuple[Any, ...]] = []

    def add(name: str, sizes: Any, seed: int, steps: int, loss: float) -> None:
        rows.append((stage, name, parameters(sizes), seed, steps, loss))
        click.echo(report.table(LOSS_HEAD, rows[-1:]), err=True)

    add("teacher", whole, 0, first, train(store, teacher, stage, first, preset="tiny", **same))
    for seed in range(seeds):
        for name, given in (
            ("student alone", {}),
            ("student begun with the teacher", {"teacher": teacher, "teacher_weight": UNTAUGHT}),
            ("student of the teacher", {"teacher": teacher}),
        ):
            out = folder / f"{stage}-{name.replace(' ', '-')}-{seed}"
            add(name, small, seed, more, train(store, out, stage, more, preset="small", seed=seed, **same, **given))
    for name, layers, measured in (
        ("pruned 30 %, trained on", 0.0, False),
        ("the same, by its losses", 0.0, True),
        ("30 % of layers too", SHARE, False),
        ("the same, by their changes", SHARE, True),
    )[: 4 if stage == "gpt" else 2]:
        out = folder / f"{stage}-pruned-{layers}-{measured}"
        prune_run(teacher, out, SHARE, layers=layers, store=store if measured else None)
        add(name, narrowed(whole, SHARE, layers), 0, more, train(store, out, stage, more))
    whole_on = folder / f"{stage}-whole-on"
    add("teacher, trained on", whole, 0, more, train(store, whole_on, stage, more, preset="tiny", init=teacher, **same))
    return rows


@click.command()
@click.option("--train", "store", type=click.Path(path_type=Path, exists=True))
@click.option("--quantize", "voice", type=click.Path(path_type=Path, exists=True))
@click.option("--rounds", default=5)
@click.option("--seeds", default=2)
@click.option("--scale", default=1.0)
@click.option("--stage", "stages", multiple=True, default=("gpt", "sovits"))
def main(
    store: Path | None, voice: Path | None, rounds: int, seeds: int, scale: float, stages: tuple[str, ...]
) -> None:
    """Measure, print and save a table: of speeds, with --train of losses, or with --quantize of what INT8 loses."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if voice is not None:
        with tempfile.TemporaryDirectory() as folder:
            rows = int8.compare(voice, Path(folder), scale)
        save("smaller-int8", "A voice of preset tiny, on real speech. One thread.", int8.HEAD, rows)
        return
    if store is None:
        told = f"Random weights of v2's sizes, one thread. {CODES} codes are 3 s of speech."
        save("smaller", told, SPEED_HEAD, speeds(rounds))
        return
    PRESETS["small"] = student()
    for stage in stages:
        with tempfile.TemporaryDirectory() as folder:
            rows = losses(store, Path(folder), stage, seeds, scale)
        told = "Real speech. The teacher is of preset tiny." + (
            " The loss is that of mel." if stage == "sovits" else ""
        )
        save(f"smaller-{stage}", told, LOSS_HEAD, rows)


def save(name: str, told: str, head: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> None:
    """Print and save a table."""
    markdown = f"{told}\n\n{report.table(head, rows)}"
    click.echo(markdown)
    report.save(name, markdown, {"rows": [dict(zip(head, row, strict=True)) for row in rows]})


if __name__ == "__main__":
    main()
