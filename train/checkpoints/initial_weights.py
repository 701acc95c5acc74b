"""Weights that a run begins with: those of another run, of its checkpoints, or of a file of weights.

What leaves a run can enter one: a run or a voice with its checkpoints, one checkpoint, an exported file; and so can
upstream's own files. An export has no posterior encoder, which only training needs: that begins with random weights.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from headrace.featurize.features.codebooks import TENSOR_NAMES, codebook_digest
from headrace.store.errors import RunError, UsageError
from headrace.train.checkpoints import upstream_files
from headrace.train.checkpoints.checkpoint import CorruptCheckpoint, checked
from headrace.train.checkpoints.export import TRAINING_PART
from headrace.train.checkpoints.load_weights import load_strict
from headrace.train.checkpoints.origin import UNKNOWN, Origin
from headrace.train.checkpoints.trained_models import choose, codebook_in, weights_of
from headrace.train.config import RunConfig
from headrace.train.models import sizes
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.narrowing import student_weights
from headrace.train.models.presets import PRESETS, Preset
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.models.sovits_config import SovitsConfig

Network = Literal["generator", "discriminator", "model"]
NETWORKS: Mapping[str, Network] = {"sovits": "generator", "gpt": "model"}
"""Stage to the network that speaks, by its name in a checkpoint."""


@dataclass(frozen=True, slots=True, kw_only=True)
class InitialWeights:
    """The weights of a network, and what is known of the codes that it was trained on."""

    source: str
    """Where they come from, for messages."""
    preset: str
    """That whose sizes they have, but for those that tensors tell."""
    weights: Mapping[str, Tensor]
    discriminator: Mapping[str, Tensor] | None = None
    """Of the same checkpoint; None if these are a file of weights."""
    origin: Origin = UNKNOWN
    """What they were trained on."""
    codebooks: frozenset[str] = frozenset()
    """Digests of the codebooks that the codes may be of: the recorded one, and a generator's own."""

    @property
    def symbols(self) -> int:
        """The number of phones that it knows."""
        return self._rows("enc_p.text_embedding.weight") or self._rows("ar_text_embedding.word_embeddings.weight")

    @property
    def codes(self) -> int:
        """The number of codes that it knows."""
        return self._rows(TENSOR_NAMES["entries"]) or max(0, self._rows("ar_predict_layer.weight") - 1)

    @property
    def generator_sizes(self) -> SovitsConfig:
        """The sizes of a generator. Raises RunError where these are weights of another network."""
        return sizes.generator_sizes(self.weights, self._sizes_of_preset().sovits)

    @property
    def decoder_sizes(self) -> GptConfig:
        """The sizes of a text-to-semantic decoder. Raises RunError where these are weights of another network."""
        return sizes.decoder_sizes(self.weights, self._sizes_of_preset().gpt)

    @property
    def digest(self) -> str:
        """Digest of all tensors, 16 hexadecimal digits."""
        found = hashlib.sha256()
        for name, value in sorted(self.weights.items()):
            found.update(f"{name} {value.dtype} {tuple(value.shape)}".encode())
            found.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        return found.hexdigest()[:16]

    def _sizes_of_preset(self) -> Preset:
        if self.preset not in PRESETS:
            raise RunError(f"{self.source} holds {upstream_files.describe(self.weights)}: give weights of one stage.")
        return PRESETS[self.preset]

    def _rows(self, name: str) -> int:
        return self.weights[name].shape[0] if name in self.weights and self.weights[name].ndim else 0


def read(path: Path, network: Network, at: str = "") -> InitialWeights:
    """Read the weights of a network.

    Args:
        path: a run, a voice, a checkpoint, or a file of weights of ours or of upstream.
        at: which checkpoint of a run, as for `run_checkpoints.choices`.
    Raises:
        UsageError: `at` is none of its values.
        RunError: there are none, or they are damaged, or of another stage, or would run code.
    """
    if path.is_dir():
        chosen = choose(path, "gpt" if network == "model" else "sovits", at)
        return _of_state(chosen.state, network, path, chosen.source)
    content, header = upstream_files.read_content(path)
    if isinstance(content, dict) and "stage" in content and "format" in content:
        try:
            state = checked(content, path)
        except CorruptCheckpoint as error:
            raise RunError(f"{path} is damaged, or not a checkpoint: {error}.") from error
        return _of_state(state, network, path, f"{path}, step {state['step']}")
    file = upstream_files.parse(content, header, path)
    return InitialWeights(
        source=str(path),
        preset=upstream_files.describe(file.weights).rpartition(" of ")[2],
        weights=file.weights,
        origin=file.origin,
        codebooks=frozenset({file.codebook, codebook_digest(file.weights)} - {""}),
    )


def resolve(config: RunConfig) -> RunConfig:
    """Return the config of a run that begins, with the sizes that the weights of `init` ask for, and their codebooks.

    Raises:
        As `read`.
    """
    if config.model.quantize and not config.model.teacher:
        config = config.with_options(teacher=config.model.init)
    model, network = config.model, NETWORKS[config.model.stage]
    if model.source is None or not model.source.exists():  # that it is not there is told when it is loaded
        return config
    initial = read(model.source, network, model.at)
    taught = read(model.teacher, network, model.at) if model.teacher and model.init else initial
    preset = PRESETS[model.preset].sovits if network == "generator" else PRESETS[model.preset].gpt
    return config.with_options(
        init_sizes=sizes.pruned_sizes(initial.weights, preset) if model.init else "",
        teacher_digest=taught.digest if model.teacher else "",
        init_symbols=initial.symbols,
        init_codes=initial.codes,
        init_codebooks=" ".join(sorted(initial.codebooks)),
        init_reads=initial.origin.reads,
    )


def initialise(module: nn.Module, initial: InitialWeights) -> list[str]:
    """Load weights into a module. Returns messages: how many tensors those are, and what begins without any.

    Raises:
        RunError: they belong to another model or version; then the module does not change.
    """
    given, wanted = upstream_files.describe(initial.weights), upstream_files.describe(module.state_dict())
    if given != wanted:
        raise RunError(
            f"{initial.source} holds {given}, and what begins with it is {wanted}: give the file that belongs to it."
        )
    count = len(initial.weights)
    messages = [f"{count} tensors of {initial.source}"]
    weights = dict(initial.weights)
    own = {name: value for name, value in module.state_dict().items() if name.startswith(TRAINING_PART)}
    if own and not any(name.startswith(TRAINING_PART) for name in weights):
        weights |= own
        messages.append(
            f"{initial.source} has no posterior encoder ({TRAINING_PART}*, {len(own)} tensors), as exported weights "
            "have none: it begins with random weights"
        )
    load_strict(module, weights, initial.source)
    return messages


def initialise_student(module: SynthesizerTrn | Text2SemanticDecoder, initial: InitialWeights) -> list[str]:
    """Begin a student with those layers and channels of its teacher that fit. Returns messages.

    Raises:
        RunError: these are not weights of a teacher of this stage.
    """
    teacher = initial.generator_sizes if isinstance(module, SynthesizerTrn) else initial.decoder_sizes
    given, own = student_weights(initial.weights, teacher, module.config), module.state_dict()
    fitting = {name: given[name] for name in own if name in given and given[name].shape == own[name].shape}
    load_strict(module, own | fitting, initial.source)
    return [f"{len(fitting)} of {len(own)} tensors are made of those of {initial.source}, the others begin random"]


def _of_state(state: Mapping[str, Any], network: Network, path: Path, source: str) -> InitialWeights:
    """Return the weights of a network in a checkpoint."""
    stage = state.get("stage")
    if isinstance(stage, Mapping) and network not in stage:
        held = " and ".join(name for name in ("generator", "discriminator", "model") if name in stage) or "no network"
        raise RunError(f"{path} holds {held}, and what begins with it is a {network}: give one of the same stage.")
    weights = weights_of(state, network, path)
    return InitialWeights(
        source=source,
        preset=_preset_of(state, path),
        weights=weights,
        discriminator=weights_of(state, "discriminator", path) if network == "generator" else None,
        origin=Origin.from_json(state.get("origin")),
        codebooks=frozenset({codebook_in(state), codebook_digest(weights)} - {""}),
    )


def _preset_of(state: Mapping[str, Any], path: Path) -> str:
    """Return the preset of the run that has written a checkpoint."""
    try:
        return RunConfig.from_json(state["config"]).model.preset
    except (ValueError, KeyError, TypeError, UsageError) as error:
        raise RunError(f"{path} does not say by which options it was trained.") from error
