"""One training step after another, ours or GPT-SoVITS' own, in a process of its own. Run by `benchmarks.step`:

    python -m benchmarks.step_sides ours|upstream CASE.json

Says one line of JSON when a step is warm, then one for each line that it is sent, and its peak memory when there are no
more. Both begin with the same weights, which ours writes, and train on the same inputs, with dropout.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd import DeviceType
from torch.nn import functional as F
from torch.profiler import ProfilerActivity, profile

from headrace.train.distributed import ReductionOptions
from headrace.train.models.presets import PRESETS
from headrace.train.parallel_form import parse_form
from headrace.train.precision import DTYPES
from headrace.train.stages.compiled_blocks import compile_stage
from headrace.train.stages.cuda_graphs import CudaGraph, Graph, GraphedPasses
from headrace.train.stages.stage import Stage

Step = Callable[[], dict[str, float]]
OPTIM = {"betas": (0.8, 0.99), "eps": 1e-9}


@dataclass(frozen=True, kw_only=True)
class Case:
    """What is trained on what."""

    stage: str
    utterances: int
    phones: int
    """Of each utterance."""
    frames: int
    """Of each utterance; codes are half as many."""
    weights: Path
    threads: int = 1
    layers: int = 24
    """Of the decoder."""
    accumulate: int = 4
    """Batches of one update of the decoder."""
    recompute: bool = False
    as_on_cuda: bool = False
    """Let AdamW of upstream update its parameters by lists, as it does on CUDA."""
    upstream: str = ""
    site: str = ""
    preset: str = "v2"
    """Of ours; upstream is v2."""
    device: str = "cpu"
    precision: str = "fp32"
    compiled: bool = False
    """Compile blocks of ours."""
    graphs: bool = False
    """Capture passes of ours."""
    shared: bool = False
    """Let this process share the model of ours with nobody, by the code that shares it out."""

    def to_json(self) -> dict[str, Any]:
        return self.__dict__ | {"weights": str(self.weights)}

    def draw(self) -> dict[str, Tensor]:
        """Noise of the shapes that a store would give."""
        torch.manual_seed(0)
        count, frames, phones, sizes = self.utterances, self.frames, self.phones, PRESETS[self.preset]
        return {
            "phones": torch.randint(sizes.gpt.symbols, (count, phones)),
            "semantic": torch.randint(sizes.gpt.codes, (count, frames // 2)),
            "wave": (torch.randn(count, frames, 640) * 3000).to(torch.int16),
            "content": torch.randn(count, frames, sizes.sovits.ssl_channels),
        }

    def autocast(self) -> torch.autocast:
        """The context in which upstream's networks run."""
        return torch.autocast(self.device, DTYPES[self.precision], enabled=self.precision != "fp32")

    def scaler(self) -> torch.amp.GradScaler:
        """Scales upstream's loss."""
        return torch.amp.GradScaler(self.device, enabled=self.precision == "fp16")


def ours(case: Case, make_graph: Callable[[Any], Graph] = CudaGraph) -> Step:
    """
    Args:
        make_graph: as of `GraphedPasses`.
    """
    from headrace.train.data.batch import Batch
    from headrace.train.precision import Precision
    from headrace.train.trainer import cuda_settings

    count, device = case.utterances, torch.device(case.device)
    batch = Batch(
        numbers=np.arange(count),
        frames=torch.full((count,), case.frames),
        phones_n=torch.full((count,), case.phones),
        tokens_n=torch.full((count,), case.frames // 2),
        tensors=case.draw(),
    )
    precision = Precision.choose(case.precision, device, fp32_steps=0)
    capability = torch.cuda.get_device_capability() if case.device == "cuda" else None
    cuda_settings.apply(precision, capability, fixed_shapes=1)
    if case.shared:
        rendezvous = f"file://{case.weights.with_suffix('.group')}"
        backend = "nccl" if case.device == "cuda" else "gloo"
        torch.distributed.init_process_group(backend, init_method=rendezvous, rank=0, world_size=1)
    reduction = _Alone(form=parse_form("fsdp")) if case.shared else ReductionOptions()
    stage: Stage = {"gpt": _gpt, "sovits": _sovits}[case.stage](
        case, precision=precision, device=device, reduction=reduction
    )
    stage.allocate()
    if case.compiled:
        compile_stage(stage)
    if case.graphs:
        stage.capture_passes(GraphedPasses(1, print, make_graph))
    batches = [batch] * (case.accumulate if case.stage == "gpt" else 1)
    names = ("loss",) if case.stage == "gpt" else ("loss_disc", "loss_mel", "loss_kl")

    def step() -> dict[str, float]:
        terms = stage.step(batches)
        return {name: float(terms[name]) for name in names}

    return step


def _gpt(case: Case, **more: Any) -> Stage:
    """Make the decoder, and write its weights."""
    from headrace.train.stages.gpt_optimizer import GptOptimConfig
    from headrace.train.stages.gpt_stage import GptStage

    torch.manual_seed(0)
    optim = GptOptimConfig(activation_checkpointing=case.recompute)
    made = GptStage(replace(PRESETS[case.preset].gpt, layers=case.layers), optim=optim, **more)
    torch.save(made.model.state_dict(), case.weights)
    return made


def _sovits(case: Case, **more: Any) -> Stage:
    """Make generator and discriminator, and write their weights."""
    from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
    from headrace.train.stages.sovits_optimizer import SovitsOptimConfig
    from headrace.train.stages.sovits_stage import SovitsStage

    torch.manual_seed(0)
    config = replace(PRESETS[case.preset].sovits, freeze_quantizer=True)
    made = SovitsStage(config, Spectral(SpectralRecipe()), optim=SovitsOptimConfig(), content="content", **more)
    made.generator.quantizer.codebook.inited.fill_(1)
    torch.save([made.generator.state_dict(), made.discriminator.state_dict()], case.weights)
    return made


class _Alone(ReductionOptions):
    """Shares the model out to one process."""

    @property
    def shards(self) -> bool:
        return True


def upstream(case: Case) -> Step:
    sys.path += [case.site] if case.site else []
    sys.path.insert(0, str(Path(case.upstream) / "GPT_SoVITS"))
    for name in ("f5_tts", "f5_tts.model"):  # of v3, which is not measured
        sys.modules[name] = types.ModuleType(name)
    sys.modules["f5_tts.model"].DiT = None  # type: ignore[attr-defined]
    return (upstream_gpt if case.stage == "gpt" else upstream_sovits)(case)


def upstream_gpt(case: Case) -> Step:
    """As its Lightning module trains: the gradients of four batches make an update."""
    import yaml
    from AR.models.t2s_model import Text2SemanticDecoder  # type: ignore[import-not-found]
    from AR.modules.optim import ScaledAdam  # type: ignore[import-not-found]

    config = yaml.safe_load((Path(case.upstream) / "GPT_SoVITS/configs/s1longer-v2.yaml").read_text())
    config["model"]["n_layer"] = case.layers
    model = Text2SemanticDecoder(config=config, top_k=3).train().to(case.device)
    model.load_state_dict(torch.load(case.weights, weights_only=True))
    names = [[name for name, _ in model.named_parameters()]]
    optimizer = ScaledAdam(
        model.parameters(), lr=0.01, betas=(0.9, 0.95), clipping_scale=2.0, parameters_names=names,
        show_dominant_parameters=False, clipping_update_period=1000,
    )  # fmt: skip
    drawn, count, scaler = case.draw(), case.utterances, case.scaler()
    phones_n, codes_n = torch.full((count,), case.phones), torch.full((count,), case.frames // 2)
    given = (drawn["phones"], phones_n, drawn["semantic"], codes_n, torch.zeros(count, 1024, case.phones))

    def step() -> dict[str, float]:
        for _ in range(case.accumulate):
            with case.autocast():
                loss, accuracy = model.forward_old(*(tensor.to(case.device) for tensor in given))
            scaler.scale(loss).backward()
            float(accuracy), float(loss)  # which it logs
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad()
        return {"loss": float(loss) / count / (case.frames // 2 + 1)}

    return step


def upstream_networks(case: Case, config: dict[str, Any]) -> list[torch.nn.Module]:
    """Generator and discriminator, with our weights."""
    from module.models import MultiPeriodDiscriminator, SynthesizerTrn  # type: ignore[import-not-found]

    data, model = config["data"], config["model"] | {"version": "v2"}
    sizes = data["filter_length"] // 2 + 1, config["train"]["segment_size"] // data["hop_length"]
    generator = SynthesizerTrn(*sizes, n_speakers=data["n_speakers"], **model)
    made = [generator, MultiPeriodDiscriminator(model["use_spectral_norm"], version="v2")]
    for network, state in zip(made, torch.load(case.weights, weights_only=True), strict=True):
        network.load_state_dict(state)
    return [network.train().to(case.device) for network in made]


def upstream_inputs(case: Case, data: dict[str, Any]) -> list[Tensor]:
    """Waves, and what the generator takes: content, spectrograms, phones and lengths."""
    from module import mel_processing  # type: ignore[import-not-found]

    drawn = case.draw()
    wave = drawn["wave"].flatten(1).float() / 32768
    spec = mel_processing.spectrogram_torch(wave, 2048, data["sampling_rate"], data["hop_length"], 2048, center=False)
    padded = 2 * (case.frames // 2 + 1) - case.frames
    content, spec = F.pad(drawn["content"].mT, (0, padded)), F.pad(spec, (0, padded))
    frames, phones_n = torch.full((case.utterances,), case.frames), torch.full((case.utterances,), case.phones)
    return [wave, content, spec, frames, drawn["phones"], phones_n]


def upstream_sovits(case: Case) -> Step:
    """In the order of its training script, from spectrograms that its loader would have made."""
    from module import commons, losses, mel_processing  # type: ignore[import-not-found]

    config = json.loads((Path(case.upstream) / "GPT_SoVITS/configs/s2.json").read_text())
    data, train = config["data"], config["train"]
    mel = [data[name] for name in ("n_mel_channels", "sampling_rate")]
    size, hop = train["segment_size"], data["hop_length"]
    net_g, net_d = upstream_networks(case, config)
    by_lists = {"foreach": True} if case.as_on_cuda else {}
    scaler = case.scaler()
    optim_g, optim_d = (torch.optim.AdamW(net.parameters(), 1e-4, **OPTIM, **by_lists) for net in (net_g, net_d))
    wave, *given = upstream_inputs(case, data)

    def step() -> dict[str, float]:
        inputs = [tensor.to(case.device) for tensor in given]
        spec, waves = inputs[1], wave.to(case.device)
        with case.autocast():
            fake, kl_ssl, starts, _, mask, (_, z_p, m_p, logs_p, _, logs_q), _ = net_g(*inputs)
            mel_real = mel_processing.spec_to_mel_torch(spec, 2048, *mel, 0.0, None)
            mel_real = commons.slice_segments(mel_real, starts, size // hop)
            mel_fake = mel_processing.mel_spectrogram_torch(fake.squeeze(1), 2048, *mel, hop, 2048, 0.0, None)
            real = commons.slice_segments(waves[:, None], starts * hop, size)
            scores_real, scores_fake, _, _ = net_d(real, fake.detach())
            with torch.autocast(case.device, enabled=False):
                loss_disc, _, _ = losses.discriminator_loss(scores_real, scores_fake)
        optim_d.zero_grad()
        scaler.scale(loss_disc).backward()
        scaler.unscale_(optim_d)
        commons.clip_grad_value_(net_d.parameters(), None)
        scaler.step(optim_d)
        with case.autocast():
            _, scores_fake, maps_real, maps_fake = net_d(real, fake)
            with torch.autocast(case.device, enabled=False):
                loss_mel = F.l1_loss(mel_real, mel_fake) * train["c_mel"]
                loss_kl = losses.kl_loss(z_p, logs_q, m_p, logs_p, mask)
                loss_fm = losses.feature_loss(maps_real, maps_fake)
                loss_gen, _ = losses.generator_loss(scores_fake)
        optim_g.zero_grad()
        scaler.scale(loss_gen + loss_fm + loss_mel + kl_ssl + loss_kl).backward()
        scaler.unscale_(optim_g)
        commons.clip_grad_value_(net_g.parameters(), None)
        scaler.step(optim_g)
        scaler.update()
        return {"loss_disc": float(loss_disc), "loss_mel": float(loss_mel), "loss_kl": float(loss_kl)}

    return step


def busy_share(step: Step, device: str) -> float:
    """The share of a step in which the device computed or copied: on a CPU, in which any operator ran."""
    kind = DeviceType.CUDA if device == "cuda" else DeviceType.CPU
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if device == "cuda" else [])]
    with profile(activities=activities) as profiler:
        start = time.perf_counter()
        step()
        wall = time.perf_counter() - start
    spans = sorted((e.time_range.start, e.time_range.end) for e in profiler.events() if e.device_type == kind)
    busy, end = 0.0, 0.0
    for first, last in spans:
        busy += max(0.0, last - max(first, end))
        end = max(end, last)
    return busy / 1e6 / wall


def main(side: str, file: str) -> None:
    data = json.loads(Path(file).read_text())
    case = Case(**data | {"weights": Path(data["weights"])})
    torch.set_num_threads(case.threads)
    step = {"ours": ours, "upstream": upstream}[side](case)
    step()
    print(json.dumps("warm"), flush=True)
    for line in sys.stdin:
        if line.strip() == "profile":
            print(json.dumps({"busy": busy_share(step, case.device)}), flush=True)
            continue
        wall, cpu = time.perf_counter(), time.process_time()
        terms = step()
        spent = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        print(json.dumps(spent | terms), flush=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"peak": torch.cuda.max_memory_allocated() if case.device == "cuda" else peak}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
