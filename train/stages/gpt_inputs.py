"""Preparation of the inputs of the text-to-semantic decoder from a batch of the store.

Shapes: B batch, X phones of the longest utterance, Y codes of the longest, E channels of BERT.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from headrace.store.errors import UsageError
from headrace.train.data.batch import Batch


@dataclass(frozen=True, slots=True, kw_only=True)
class GptInputs:
    """Padded phones and codes."""

    phones: Tensor
    """(B, X) int64."""
    phones_n: Tensor
    """(B,) int64."""
    codes: Tensor
    """(B, Y) int64."""
    codes_n: Tensor
    """(B,) int64."""
    bert: Tensor | None = None
    """(B, X, E) float32, zero past each utterance's end and for languages that have none."""
    idle: bool = False
    """Compute them only because other ranks compute: their gradients are zero."""


def prepare_inputs(batch: Batch) -> GptInputs:
    """Prepare the inputs of the decoder.

    The last code of an odd number of frames covers one frame of padding: it is left out, only SoVITS reads it.

    Args:
        batch: with phones and semantic, and optionally bert.
    Raises:
        UsageError: the batch was read without the token axis.
    """
    if batch.tokens_n is None:
        raise UsageError("The batch was read without the token axis: read semantic with it.")
    return GptInputs(
        phones=batch["phones"].long(),
        phones_n=batch.phones_n,
        codes=batch["semantic"].long(),
        codes_n=batch.tokens_n.minimum(batch.frames // 2),
        bert=batch["bert"].float() if "bert" in batch.tensors else None,
    )
