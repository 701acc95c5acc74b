"""Sample content codes from the text-to-semantic decoder, one at a time, with keys and values cached.

Shapes: P phones, Q codes of the prompt, Y generated codes, E channels of BERT, V vocabulary, B batch, H heads,
L positions, D channels of a head, C channels.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.prefix_attention import AttentionFn, PrefixAttention, attend
from headrace.train.models.sampling_config import SamplingConfig


class KVCache:
    """The attention of one layer with cached keys and values: first over a whole prompt, then over one position a call.

    It is an `AttentionFn`.
    """

    def __init__(self, prompt_attention: AttentionFn, capacity: int) -> None:
        """
        Args:
            prompt_attention: used for the prompt, which is the first call.
            capacity: the most positions, prompt included.
        """
        self._prompt_attention, self._capacity, self._length = prompt_attention, capacity, 0
        self._keys = self._values = torch.empty(0)

    def __call__(self, q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor, dropout: float) -> Tensor:
        """Cache keys and values, and attend to all that are cached. (B, H, L, D)."""
        B, H, L, D = k_BHLD.shape
        if is_prompt := not self._length:
            self._keys, self._values = (x.new_empty(B, H, self._capacity, D) for x in (k_BHLD, v_BHLD))
        start, self._length = self._length, self._length + L
        self._keys[:, :, start : self._length] = k_BHLD
        self._values[:, :, start : self._length] = v_BHLD
        if is_prompt:
            return self._prompt_attention(q_BHLD, k_BHLD, v_BHLD, dropout)
        return attend(q_BHLD, self._keys[:, :, : self._length], self._values[:, :, : self._length])


@torch.no_grad()
def generate_semantic(
    model: Text2SemanticDecoder,
    phones_P: Tensor,
    config: SamplingConfig,
    *,
    bert_PE: Tensor | None = None,
    prompt_Q: Tensor | None = None,
) -> Tensor:
    """Generate the content codes of a text.

    Generation stops where the end is sampled or most probable, or after `config.max_codes`. Random numbers come from
    torch's global generator of the device.

    Args:
        model: in evaluation mode.
        phones_P: int64 ids: those of the prompt, if there is one, followed by those of the text.
        bert_PE: BERT features of each phone.
        prompt_Q: int64 codes of the prompt, which the generated codes continue.

    Returns:
        (Y,) int64, without the prompt.
    """
    codes = phones_P.new_empty(0) if prompt_Q is None else prompt_Q
    prompt_size = len(codes)
    text_1PC = model.embed_text(phones_P[None], None if bert_PE is None else bert_PE[None])
    x_1LC = torch.cat((text_1PC, model.embed_codes(codes[None])), dim=1)
    attention = PrefixAttention(torch.tensor([len(phones_P)], device=phones_P.device), len(phones_P))
    caches = [KVCache(attention, x_1LC.shape[1] + config.max_codes) for _ in model.h.layers]
    for count in range(config.max_codes):
        logits_V = model.ar_predict_layer(model.h(x_1LC, caches)[0, -1])
        allowed_V = logits_V[: model.config.end] if count < config.min_codes else logits_V
        penalised_V = apply_repetition_penalty(allowed_V, codes, config.repetition_penalty)
        code = sample_token(penalised_V, config)
        if model.config.end in (int(code), int(penalised_V.argmax())):
            break
        codes = torch.cat((codes, code[None]))
        x_1LC = model.embed_codes(code[None, None], len(codes) - 1)
    return codes[prompt_size:]


def apply_repetition_penalty(logits_V: Tensor, previous_codes: Tensor, penalty: float) -> Tensor:
    """Return the logits with those of previous codes lowered (CTRL, Keskar et al. 2019, section 4.1)."""
    logits = logits_V.clone()
    repeated = logits[previous_codes]
    logits[previous_codes] = torch.where(repeated < 0, repeated * penalty, repeated / penalty)
    return logits


def sample_token(logits_V: Tensor, config: SamplingConfig) -> Tensor:
    """Sample one id by top-p, temperature and top-k. () int64.

    Args:
        logits_V: after the repetition penalty.
    """
    logits = logits_V
    if config.top_p < 1:
        ordered, order = logits.sort(descending=True)
        excluded = ordered.softmax(0).cumsum(0) > config.top_p
        excluded[0] = False
        logits = logits.masked_fill(excluded.scatter(0, order, excluded), -torch.inf)
    logits = logits / max(config.temperature, 1e-5)
    threshold = logits.topk(min(config.top_k, len(logits))).values[-1]
    probabilities = logits.masked_fill(logits < threshold, -torch.inf).softmax(0)
    # The argmax of p / Exp(1) is distributed as p. Unlike torch.multinomial, it does not synchronise with the device.
    return (probabilities / torch.empty_like(probabilities).exponential_()).argmax()
