"""The text-to-semantic decoder of GPT-SoVITS: phones, and what BERT makes of them, to content codes at 25 Hz.

A transformer reads the phones of an utterance and then its codes, and predicts each code from everything before it
(AudioLM, Borsos et al. 2022, in the arrangement of VALL-E, Wang et al. 2023, first stage). Parameters have the names
and shapes of published weights.

Text and codes of an utterance are packed next to each other, with the padding of both behind them: so every code sees
its whole text and never a padded phone, and the first code is predicted from the last phone.

Shapes: B batch, X phones of the longest, Y codes of the longest, L = X + Y, Z = Y + 1 predictions, C channels,
E channels of BERT, V vocabulary.
"""

from __future__ import annotations

import math
from itertools import repeat

import torch
from torch import Tensor, nn

from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.prefix_attention import PrefixSight
from headrace.train.models.transformer import Transformer


class Embedding(nn.Module):
    """A table under the name that trained weights have for it."""

    def __init__(self, entries: int, channels: int) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(entries, channels)

    def forward(self, ids: Tensor) -> Tensor:
        return self.word_embeddings(ids)


class SinePosition(nn.Module):
    """Sinusoidal positions (Vaswani et al. 2017, section 3.5), sine and cosine taking turns, with a learnt weight."""

    def __init__(self, dropout: float) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1))
        self.drop = nn.Dropout(dropout)

    def forward(self, x_BLC: Tensor, start: int = 0) -> Tensor:
        """Add the positions from `start` on. (B, L, C)."""
        size, channels = x_BLC.shape[1:]
        position = torch.arange(start, start + size, device=x_BLC.device, dtype=torch.float32)
        pair = torch.arange(0, channels, 2, device=x_BLC.device, dtype=torch.float32)
        angle = position[:, None] * torch.exp(pair * (-math.log(10_000) / channels))
        return self.drop(x_BLC + self.alpha * torch.stack((angle.sin(), angle.cos()), dim=2).flatten(1))


class Text2SemanticDecoder(nn.Module):
    def __init__(self, config: GptConfig) -> None:
        super().__init__()
        self.config = config
        channels = config.channels
        self.bert_proj = nn.Linear(config.bert_channels, channels)
        self.ar_text_embedding = Embedding(config.symbols, channels)
        self.ar_text_position = SinePosition(config.dropout)
        self.ar_audio_embedding = Embedding(config.vocabulary, channels)
        self.ar_audio_position = SinePosition(config.dropout)
        self.h = Transformer(config.layers, channels, 4 * channels, config.heads, config.dropout)
        self.ar_predict_layer = nn.Linear(channels, config.vocabulary, bias=False)

    def forward(
        self,
        phones_BX: Tensor,
        phones_n_B: Tensor,
        codes_BY: Tensor,
        codes_n_B: Tensor,
        bert_BXE: Tensor | None = None,
        *,
        misaligned: bool = False,
        recompute: bool = False,
    ) -> Tensor:
        """Logits (B, Z, V): row y predicts code y, the row after the last code the end. Rows after that mean nothing.

        Args:
            phones_BX: int64 ids, any id past the end.
            phones_n_B, codes_n_B: valid phones, 1 at least, and codes.
            codes_BY: int64 ids, anything within the codebook past the end.
            bert_BXE: features of each phone; None for a language that has none.
            misaligned: mask as upstream's training code does since July 2025, to compare numbers with it: it pads
                phones on the right but masks on the left, so of a text that is d phones shorter than the longest the
                first d are hidden and d paddings are seen, as phone 0. Padded codes predict the end, from all valid
                codes, and their rows mean just that.
            recompute: trade a third more time for most of the activations' memory.
        """
        text_BXC = self.embed_text(phones_BX, bert_BXE)
        past_end_BY = torch.arange(codes_BY.shape[1], device=codes_BY.device) >= codes_n_B[:, None]
        codes_BYC = self.embed_codes(codes_BY.masked_fill(past_end_BY, self.config.end))
        text_size, size = phones_BX.shape[1], phones_BX.shape[1] + codes_BY.shape[1]
        sight = PrefixSight(phones_n_B, text_size)
        if misaligned:
            sight.blind_past(phones_n_B + codes_n_B, size)
        order_BL = _order(phones_n_B, text_size, size, misaligned)
        packed_BLC = _take(torch.cat((text_BXC, codes_BYC), dim=1), order_BL)
        hidden_BLC = self.h(packed_BLC, repeat(sight), recompute=recompute)
        predicting_BZ = phones_n_B[:, None] - 1 + torch.arange(codes_BY.shape[1] + 1, device=codes_BY.device)
        return self.ar_predict_layer(_take(hidden_BLC, predicting_BZ))

    def embed_text(self, phones_BX: Tensor, bert_BXE: Tensor | None) -> Tensor:
        """(B, X, C). Without BERT its features count as zero."""
        bert = self.bert_proj.bias if bert_BXE is None else self.bert_proj(bert_BXE)
        return self.ar_text_position(self.ar_text_embedding(phones_BX) + bert)

    def embed_codes(self, codes_BY: Tensor, start: int = 0) -> Tensor:
        """(B, Y, C). The first one is number `start` of its sequence."""
        return self.ar_audio_position(self.ar_audio_embedding(codes_BY), start)


def _order(phones_n_B: Tensor, text_size: int, size: int, misaligned: bool) -> Tensor:
    """(B, L): what stands where in the packed sequence, as positions of the padded text followed by the codes."""
    position_L = torch.arange(size, device=phones_n_B.device)
    moved_B1 = (text_size - phones_n_B)[:, None]
    is_code_BL = position_L >= phones_n_B[:, None]
    moved_BL = moved_B1.expand(-1, size) if misaligned else moved_B1 * is_code_BL
    return (position_L + moved_BL).clamp(max=size - 1)


def _take(x_BLC: Tensor, index_BN: Tensor) -> Tensor:
    """Positions `index` of every sequence, (B, N, C)."""
    return x_BLC.gather(1, index_BN[:, :, None].expand(-1, -1, x_BLC.shape[2]))
