"""Loading of the weights that a stage begins with, and whether they fit the codes of its store."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from headrace.store.advice import command
from headrace.store.errors import UsageError
from headrace.train.checkpoints import initial_weights
from headrace.train.checkpoints.initial_weights import InitialWeights
from headrace.train.checkpoints.origin import K_MEANS, UNKNOWN, Origin
from headrace.train.config_sections import ModelConfig
from headrace.train.models.discriminator import MultiPeriodDiscriminator
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.sovits import SynthesizerTrn


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreCodes:
    """What is known of the semantic tokens of a store."""

    store: object
    """Its path, for the remedies of errors."""
    codebook: str
    """Digest of their codebook; empty if there are none, or it is not known."""
    origin: Origin = UNKNOWN
    """What they were made by."""

    @property
    def drop(self) -> str:
        """The command that drops them."""
        return command("featurize drop", self.store, "semantic")

    @property
    def add(self) -> str:
        """The command that adds them, without its options."""
        return command("featurize add", self.store, "semantic")


def load_sovits(
    generator: SynthesizerTrn,
    discriminator: MultiPeriodDiscriminator,
    config: ModelConfig,
    *,
    content: str,
    codes: StoreCodes,
) -> list[str]:
    """Load the weights of SoVITS that a config names. Returns a message for each file.

    Args:
        content: the feature that the generator reads.
    Raises:
        RunError: a file cannot be read, or holds the weights of another model.
        UsageError: the codes of the store, which are read, are of another codebook.
    """
    messages = []
    judges: InitialWeights | None = None
    if config.source:
        initial = initial_weights.read(config.source, "generator", config.at)
        messages += _load(generator, initial, config)
        messages += compare_codebooks(config.source, initial.codebooks, codes, are_read=content == "semantic")
        if initial.discriminator is not None:
            judges = replace(initial, weights=initial.discriminator)
    if config.init_discriminator:
        judges = initial_weights.read(config.init_discriminator, "discriminator", config.at)
    if judges:
        found = initial_weights.initialise(discriminator, judges)
        messages += [f"init_discriminator: {line}" for line in found]
    elif config.source:
        messages.append("init_discriminator: none is given, discriminators begin with random weights")
    if config.source:
        messages.append(f"quantiser frozen: content is {content}")
    return messages


def compare_codebooks(init: Path, own: frozenset[str], codes: StoreCodes, *, are_read: bool) -> list[str]:
    """Compare the codebook of SoVITS weights that were loaded with that of the store's codes. Returns messages.

    Args:
        own: digests of the codebooks of the weights.
        are_read: the model that was loaded reads the codes.
    Raises:
        UsageError: they are read, and are of another codebook.
    """
    if (codes.codebook in own) if codes.codebook else not are_read:
        return []
    remedy = f"run {codes.drop}, then {codes.add} {command('--sovits', init)}"
    if not codes.codebook:
        return [f"it is not known whether the codes of the store are of the codebook of {init}; to be sure, {remedy}"]
    what = f"the codes of the store are of another codebook ({codes.codebook}) than {init}"
    if are_read:
        raise UsageError(f"{what[0].upper()}{what[1:]}: {remedy}.")
    return [f"{what}: a gpt that is trained on them cannot speak with this model; before that, {remedy}"]


def load_decoder(model: Text2SemanticDecoder, config: ModelConfig, codes: StoreCodes) -> list[str]:
    """Load the weights of the text-to-semantic decoder that a config names. Returns a message for the file.

    Raises:
        RunError: it cannot be read, or holds the weights of another model.
        UsageError: it was trained on codes of another codebook.
    """
    if not config.source:
        return []
    initial = initial_weights.read(config.source, "model", config.at)
    messages = _load(model, initial, config)
    trained_on = initial.codebooks
    if trained_on and codes.codebook and codes.codebook not in trained_on:
        raise UsageError(
            f"{initial.source} was trained on codes of another codebook ({' '.join(trained_on)}) than those of the "
            f"store ({codes.codebook}): make the codes by the model that it speaks with, by {codes.drop} and "
            f"{codes.add} --sovits FILE, or begin without --init."
        )
    if not trained_on and codes.origin.codes.startswith(K_MEANS) and not config.mixed_origins:
        raise UsageError(
            f"{initial.source} does not say which codes it was trained on, as published weights do not, and those "
            f"of {codes.store} are {codes.origin}: one does not mean the other. Make the codes by the SoVITS weights "
            f"that belong to it, by {codes.drop} and {codes.add} --sovits FILE, or give --mixed-origins."
        )
    if not (trained_on and codes.codebook):
        messages.append(f"it is not known whether {initial.source} was trained on codes of the store's codebook")
    return messages


def _load(network: SynthesizerTrn | Text2SemanticDecoder, initial: InitialWeights, config: ModelConfig) -> list[str]:
    """Load the weights to begin with, or those of the teacher that fit. Returns messages."""
    if config.init:
        return [f"init: {line}" for line in initial_weights.initialise(network, initial)]
    return [f"teacher: {line}" for line in initial_weights.initialise_student(network, initial)]
