"""The text-to-semantic decoder of GPT-SoVITS: it generates content codes at 25 Hz from phones and BERT features.

A transformer reads the phones of an utterance and then its codes, and predicts each code from everything before it
(AudioLM, Borsos et al. 2022, in the arrangement of VALL-E, Wang et al. 2023, first stage). Parameters have the names
and shapes of published weights.

Text and codes of an utterance are packed next to each other, and the padding of both follows them. So every code
attends to its whole text and never to a padded phone, and the first code is predicted from the last phone.

Shapes: B batch, X phones of the longest, Y codes of the longest, L = X + Y, Z = Y + 1 predictions, C channels,
E channels of BERT, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import repeat

import torch
from torch import Tensor, nn

from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.layers import Dropout
from headrace.train.models.prefix_attention import PrefixAttention
from headrace.train.models.transformer import Transformer

FIRST_POSITIONS = 1024
"""Positions whose embeddings are computed at first; all that are there, where a sequence has more."""


class Embedding(nn.Module):
    """An embedding table under the name that it has in published weights."""

    def __init__(self, entries: int, channels: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(entries, channels)

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings of ids."""
        return self.word_embeddings(ids)


class SinePosition(nn.Module):
    """Sinusoidal positions (Vaswani et al. 2017, section 3.5), sine and cosine interleaved, with a learnt weight."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1))
        self.drop = Dropout(dropout)
        self._known = torch.empty(0, 0)
        self._outgrown: list[Tensor] = []  # CUDA graphs of shorter sequences read them where they are

    def forward(self, x_BLC: Tensor, start: int | Tensor = 0) -> Tensor:
        """Add the embeddings of positions `start`, `start + 1`, ... (B, L, C)."""
        size, channels = x_BLC.shape[1:]
        if isinstance(start, Tensor) or torch.compiler.is_exporting():  # a graph keeps nothing from call to call
            return self.drop(x_BLC + self.alpha * _sine_positions(start, size, channels, x_BLC.device))
        if len(self._known) < max(1, start + size) or self._known.device != x_BLC.device:
            self._outgrown.append(self._known)
            self._known = _sine_positions(0, max(FIRST_POSITIONS, start + size), channels, x_BLC.device)
        return self.drop(torch.addcmul(x_BLC, self.alpha, self._known[start : start + size]))


def _sine_positions(start: int | Tensor, size: int, channels: int, device: torch.device) -> Tensor:
    """Return the embeddings of positions `start`, `start + 1`, ... (L, C)."""
    position = start + torch.arange(size, device=device, dtype=torch.float32)
    pair = torch.arange(0, channels, 2, device=device, dtype=torch.float32)
    angle = position[:, None] * torch.exp(pair * (-math.log(10_000) / channels))
    return torch.stack((angle.sin(), angle.cos()), dim=2).flatten(1)


class Text2SemanticDecoder(nn.Module):
    """A prefix language model of content codes, conditioned on text."""

    codebook: str = ""
    """Digest of the codebook of the codes that it was trained on; empty if it is not known."""
    origin: str = ""
    """What it was trained on, in words; empty if it is not known."""
    ranges: Mapping[str, Tensor] | None = None
    """Ranges of what its layers read and write, if it was trained to compute in INT8."""

    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.bert_proj = nn.Linear(config.bert_channels, channels)
        self.ar_text_embedding = Embedding(config.symbols, channels)
        self.ar_text_position = SinePosition(config.dropout)
        self.ar_audio_embedding = Embedding(config.vocabulary, channels)
        self.ar_audio_position = SinePosition(config.dropout)
        self.h = Transformer(config.layers, channels, config.feed_forward_width, config.heads, config.dropout)
        self.ar_predict_layer = nn.Linear(channels, config.vocabulary, bias=False)

    def forward(
        self,
        phones_BX: Tensor,
        phones_n_B: Tensor,
        codes_BY: Tensor,
        codes_n_B: Tensor,
        bert_BXE: Tensor | None = None,
        *,
        upstream_mask: bool = False,
        activation_checkpointing: bool = False,
    ) -> Tensor:
        """Predict each code from the text and the codes before it.

        Args:
            phones_BX: int64 ids, any valid id past each end.
            phones_n_B, codes_n_B: numbers of phones, 1 at least, and of codes.
            codes_BY: int64 ids, any valid id past each end.
            bert_BXE: BERT features of each phone; None for a language that has none.
            upstream_mask: mask as upstream's training code does since July 2025, to compare numbers with it. That code
                pads phones on the right but masks on the left: of a text that is d phones shorter than the longest, the
                first d phones are hidden, and d paddings are visible as phone 0. Padded codes attend to all valid codes
                and predict the end.
            activation_checkpointing: save most of the activations' memory for a third more time.

        Returns:
            Logits (B, Z, V): row y predicts code y, and the row after the last code predicts the end. Rows after that
            are undefined, except with `upstream_mask`.
        """
        packed_BLC = self.pack(phones_BX, phones_n_B, codes_BY, codes_n_B, bert_BXE, upstream_mask=upstream_mask)
        attention = self.attention(packed_BLC, phones_n_B, phones_BX.shape[1], codes_n_B if upstream_mask else None)
        hidden_BLC = self.h(packed_BLC, repeat(attention), activation_checkpointing=activation_checkpointing)
        return self.predict(hidden_BLC, phones_n_B, codes_BY.shape[1])

    def pack(
        self,
        phones_BX: Tensor,
        phones_n_B: Tensor,
        codes_BY: Tensor,
        codes_n_B: Tensor,
        bert_BXE: Tensor | None,
        *,
        upstream_mask: bool = False,
    ) -> Tensor:
        """Embed texts and codes, packed next to each other. (B, L, C)."""
        text_BXC = self.embed_text(phones_BX, bert_BXE)
        past_end_BY = torch.arange(codes_BY.shape[1], device=codes_BY.device) >= codes_n_B[:, None]
        codes_BYC = self.embed_codes(codes_BY.masked_fill(past_end_BY, self.config.end))
        text_size, size = phones_BX.shape[1], phones_BX.shape[1] + codes_BY.shape[1]
        order_BL = _packed_order(phones_n_B, text_size, size, upstream_mask)
        return _gather_positions(torch.cat((text_BXC, codes_BYC), dim=1), order_BL)

    def attention(
        self, x_BLC: Tensor, phones_n_B: Tensor, text_size: int, codes_n_B: Tensor | None = None
    ) -> PrefixAttention:
        """Return the attention of all layers over packed sequences.

        Args:
            text_size: X.
            codes_n_B: where padded codes attend too, as in upstream's training code.
        """
        attention = PrefixAttention(phones_n_B, text_size)
        if codes_n_B is not None:
            attention.attend_from_padding(phones_n_B + codes_n_B, x_BLC.shape[1])
        return attention.in_one_call(x_BLC, self.config.heads)

    def predict(self, hidden_BLC: Tensor, phones_n_B: Tensor, codes_size: int) -> Tensor:
        """Return logits of each code and of the end, from what the last layer gives. (B, Z, V)."""
        predicting_BZ = phones_n_B[:, None] - 1 + torch.arange(codes_size + 1, device=phones_n_B.device)
        return self.ar_predict_layer(_gather_positions(hidden_BLC, predicting_BZ))

    def embed_text(self, phones_BX: Tensor, bert_BXE: Tensor | None) -> Tensor:
        """Embed phones, their BERT features and positions. Missing features count as zero. (B, X, C)."""
        bert = self.bert_proj.bias if bert_BXE is None else self.bert_proj(bert_BXE)
        return self.ar_text_position(self.ar_text_embedding(phones_BX) + bert)

    def embed_codes(self, codes_BY: Tensor, start: int | Tensor = 0) -> Tensor:
        """Embed codes and their positions; the first one has position `start`. (B, Y, C)."""
        return self.ar_audio_position(self.ar_audio_embedding(codes_BY), start)


def _packed_order(phones_n_B: Tensor, text_size: int, size: int, upstream_mask: bool) -> Tensor:
    """Return, for each packed position, its index in the padded text followed by the codes. (B, L) int64."""
    position_L = torch.arange(size, device=phones_n_B.device)
    padding_B1 = (text_size - phones_n_B)[:, None]
    is_code_BL = position_L >= phones_n_B[:, None]
    shift_BL = padding_B1.expand(-1, size) if upstream_mask else padding_B1 * is_code_BL
    return (position_L + shift_BL).clamp(max=size - 1)


def _gather_positions(x_BLC: Tensor, index_BN: Tensor) -> Tensor:
    """Return positions `index` of every sequence, (B, N, C)."""
    return x_BLC.gather(1, index_BN[:, :, None].expand(-1, -1, x_BLC.shape[2]))
