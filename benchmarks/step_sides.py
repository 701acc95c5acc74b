"""One training step after another, ours or GPT-SoVITS' own, in a process of its own. Run by `benchmarks.step`:

    python -m benchmarks.step_sides ours|upstream CASE.json

Says one line of JSON when a step is warm, then one for each line that it is sent, and its peak memory when there are no
more. Both begin with the same weights, which ours writes, and train on the same inputs, with dropout, in float32.
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
from torch.nn import functional as F

Step = Callable[[], dict[str, float]]
CPU = torch.device("cpu")
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

    def to_json(self) -> dict[str, Any]:
        return self.__dict__ | {"weights": str(self.weights)}

    def draw(self) -> dict[str, Tensor]:
        """Noise of the shapes that a store would give."""
        torch.manual_seed(0)
        count, frames, phones = self.utterances, self.frames, self.phones
        return {
            "phones": torch.randint(732, (count, phones)),
            "semantic": torch.randint(1024, (count, frames // 2)),
            "wave": (torch.randn(count, frames, 640) * 3000).to(torch.int16),
            "content": torch.randn(count, frames, 768),
        }


def ours(case: Case) -> Step:
    from headrace.featurize.spectral.dsp import Spectral, SpectralRecipe
    from headrace.train.data.batch import Batch
    from headrace.train.models.presets import PRESETS
    from headrace.train.precision import Precision
    from headrace.train.stages.gpt_optimizer import GptOptimConfig
    from headrace.train.stages.gpt_stage import GptStage
    from headrace.train.stages.sovits_optimizer import SovitsOptimConfig
    from headrace.train.stages.sovits_stage import SovitsStage

    drawn, count = case.draw(), case.utterances
    batch = Batch(
        numbers=np.arange(count),
        frames=torch.full((count,), case.frames),
        phones_n=torch.full((count,), case.phones),
        tokens_n=torch.full((count,), case.frames // 2),
        tensors=drawn,
    )
    precision = Precision.choose("fp32", CPU)
    if case.stage == "gpt":
        made = GptStage(
            replace(PRESETS["v2"].gpt, layers=case.layers),
            precision=precision,
            device=CPU,
            optim=GptOptimConfig(activation_checkpointing=case.recompute),
        )
        torch.save(made.model.state_dict(), case.weights)
        return lambda: {"loss": float(made.step([batch] * case.accumulate)["loss"])}
    spectral = Spectral(SpectralRecipe())
    config = replace(PRESETS["v2"].sovits, freeze_quantizer=True)
    trained = SovitsStage(
        config, spectral, precision=precision, device=CPU, optim=SovitsOptimConfig(), content="content"
    )
    trained.generator.quantizer.codebook.inited.fill_(1)
    torch.save([trained.generator.state_dict(), trained.discriminator.state_dict()], case.weights)

    def step() -> dict[str, float]:
        terms = trained.step([batch])
        return {name: float(terms[name]) for name in ("loss_disc", "loss_mel", "loss_kl")}

    return step


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
    model = Text2SemanticDecoder(config=config, top_k=3).train()
    model.load_state_dict(torch.load(case.weights, weights_only=True))
    names = [[name for name, _ in model.named_parameters()]]
    optimizer = ScaledAdam(
        model.parameters(), lr=0.01, betas=(0.9, 0.95), clipping_scale=2.0, parameters_names=names,
        show_dominant_parameters=False, clipping_update_period=1000,
    )  # fmt: skip
    drawn, count = case.draw(), case.utterances
    phones_n, codes_n = torch.full((count,), case.phones), torch.full((count,), case.frames // 2)
    bert = torch.zeros(count, 1024, case.phones)

    def step() -> dict[str, float]:
        for _ in range(case.accumulate):
            loss, accuracy = model.forward_old(drawn["phones"], phones_n, drawn["semantic"], codes_n, bert)
            loss.backward()
            float(accuracy), float(loss)  # which it logs
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": float(loss) / count / (case.frames // 2 + 1)}

    return step


def upstream_sovits(case: Case) -> Step:
    """In the order of its training script, from spectrograms that its loader would have made."""
    from module import commons, losses, mel_processing  # type: ignore[import-not-found]
    from module.models import MultiPeriodDiscriminator, SynthesizerTrn  # type: ignore[import-not-found]

    config = json.loads((Path(case.upstream) / "GPT_SoVITS/configs/s2.json").read_text())
    data, train, model = config["data"], config["train"], config["model"] | {"version": "v2"}
    mel = [data[name] for name in ("n_mel_channels", "sampling_rate")]
    size, hop = train["segment_size"], data["hop_length"]
    net_g = SynthesizerTrn(data["filter_length"] // 2 + 1, size // hop, n_speakers=data["n_speakers"], **model).train()
    net_d = MultiPeriodDiscriminator(model["use_spectral_norm"], version="v2").train()
    for net, state in zip((net_g, net_d), torch.load(case.weights, weights_only=True), strict=True):
        net.load_state_dict(state)
    by_lists = {"foreach": True} if case.as_on_cuda else {}
    optim_g, optim_d = (torch.optim.AdamW(net.parameters(), 1e-4, **OPTIM, **by_lists) for net in (net_g, net_d))
    drawn = case.draw()
    wave = drawn["wave"].flatten(1).float() / 32768
    spec = mel_processing.spectrogram_torch(wave, 2048, data["sampling_rate"], hop, 2048, center=False)
    padded = 2 * (case.frames // 2 + 1) - case.frames
    spec, content = F.pad(spec, (0, padded)), F.pad(drawn["content"].mT, (0, padded))
    frames, phones_n = torch.full((case.utterances,), case.frames), torch.full((case.utterances,), case.phones)

    def step() -> dict[str, float]:
        made = net_g(content, spec, frames, drawn["phones"], phones_n)
        fake, kl_ssl, starts, _, mask, (_, z_p, m_p, logs_p, _, logs_q), _ = made
        mel_real = mel_processing.spec_to_mel_torch(spec, 2048, *mel, 0.0, None)
        mel_real = commons.slice_segments(mel_real, starts, size // hop)
        mel_fake = mel_processing.mel_spectrogram_torch(fake.squeeze(1), 2048, *mel, hop, 2048, 0.0, None)
        real = commons.slice_segments(wave[:, None], starts * hop, size)
        scores_real, scores_fake, _, _ = net_d(real, fake.detach())
        loss_disc, _, _ = losses.discriminator_loss(scores_real, scores_fake)
        optim_d.zero_grad()
        loss_disc.backward()
        commons.clip_grad_value_(net_d.parameters(), None)
        optim_d.step()
        _, scores_fake, maps_real, maps_fake = net_d(real, fake)
        loss_mel = F.l1_loss(mel_real, mel_fake) * train["c_mel"]
        loss_kl = losses.kl_loss(z_p, logs_q, m_p, logs_p, mask)
        loss_gen, _ = losses.generator_loss(scores_fake)
        optim_g.zero_grad()
        (loss_gen + losses.feature_loss(maps_real, maps_fake) + loss_mel + kl_ssl + loss_kl).backward()
        commons.clip_grad_value_(net_g.parameters(), None)
        optim_g.step()
        return {"loss_disc": float(loss_disc), "loss_mel": float(loss_mel), "loss_kl": float(loss_kl)}

    return step


def main(side: str, file: str) -> None:
    data = json.loads(Path(file).read_text())
    case = Case(**data | {"weights": Path(data["weights"])})
    torch.set_num_threads(case.threads)
    step = {"ours": ours, "upstream": upstream}[side](case)
    step()
    print(json.dumps("warm"), flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        terms = step()
        spent = {"wall_s": time.perf_counter() - wall, "cpu_s": time.process_time() - cpu}
        print(json.dumps(spent | terms), flush=True)
    print(json.dumps({"peak": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
