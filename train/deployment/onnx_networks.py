"""The networks as they are exported to ONNX: one utterance, and nothing drawn inside, so that torch and ONNX compare.

The decoder becomes two graphs. The prompt graph reads phones and the codes that are continued, and returns the keys and
values of all of its layers. The step graph reads one code more. It gets keys and values in arrays of a fixed capacity,
of which the positions before `position` count, and returns those of its own position: who calls it writes them into the
same arrays, so that nothing is copied from step to step.

Shapes: P phones, Q codes, E channels of BERT, V vocabulary, N layers, H heads, L positions, R capacity of the cache,
D channels of a head, C channels, F spectrogram bins, T frames of the reference, Z latent channels, M frames of speech,
S samples, G channels of a speaker vector, W channels of content.
"""

from __future__ import annotations

import copy
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.layers import WeightNorm
from headrace.train.models.prefix_attention import attend
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.models.vocoder import FLOAT32_STAGES

BLOCK = 16
"""Channels of ONNX Runtime's largest blocks."""


class PromptNetwork(nn.Module):
    """Reads phones and codes, and predicts the next code."""

    def __init__(self, decoder: Text2SemanticDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(self, phones: Tensor, bert: Tensor, codes: Tensor) -> tuple[Tensor, Tensor]:
        """Predict.

        Args:
            phones: (P,) int64, those of the reference and those of the text.
            bert: (P, E) float32, zero where there is none.
            codes: (Q,) int64; may be empty.
        Returns:
            logits (V,), and keys and values of each layer, one after the other, (2 N, H, L, D); L = P + Q.
        """
        decoder = self.decoder
        text_1PC = decoder.embed_text(phones[None], bert[None])
        x_1LC = torch.cat((text_1PC, decoder.embed_codes(codes[None])), dim=1)
        positions_L = torch.arange(x_1LC.shape[1])
        mask_LL = (positions_L < phones.shape[0]) | (positions_L <= positions_L[:, None])
        attentions = [_PromptAttention(mask_LL) for _ in decoder.h.layers]
        hidden_1LC = decoder.h(x_1LC, attentions)
        return decoder.ar_predict_layer(hidden_1LC[0, -1]), torch.cat([kv for one in attentions for kv in one.cached])


class StepNetwork(nn.Module):
    """Reads one code after those that are cached, and predicts the next one."""

    def __init__(self, decoder: Text2SemanticDecoder) -> None:
        super().__init__()
        self.decoder = decoder

    def forward(
        self, code: Tensor, code_position: Tensor, position: Tensor, cache: list[Tensor]
    ) -> tuple[Tensor, Tensor]:
        """Predict.

        Args:
            code: (1,) int64.
            code_position: () int64, how many codes are before it.
            position: () int64, how many positions are before it, phones and codes.
            cache: 2 N arrays (H, R, D), the keys and values of each layer.
        Returns:
            logits (V,), and what the caller writes at `position` of the cache, (2 N, H, D).
        """
        decoder = self.decoder
        pairs = zip(cache[::2], cache[1::2], strict=True)
        attentions = [_StepAttention(keys, values, position) for keys, values in pairs]
        hidden_11C = decoder.h(decoder.embed_codes(code[None], code_position), attentions)
        rows = torch.cat([kv for one in attentions for kv in one.cached])
        return decoder.ar_predict_layer(hidden_11C[0, 0]), rows[:, :, 0]


class SpeechNetwork(nn.Module):
    """Decodes codes and phones to speech in the voice of a reference."""

    def __init__(self, generator: SynthesizerTrn) -> None:
        super().__init__()
        self.generator = generator

    def forward(
        self, codes: Tensor, phones: Tensor, reference: Tensor, noise: Tensor, speaker: Tensor | None = None
    ) -> Tensor:
        """Decode.

        Args:
            codes: (Q,) int64.
            phones: (P,) int64.
            reference: (F, T) float32, linear spectrogram of the recording whose voice is imitated.
            noise: (Z, M) float32, standard normal. M = 2 Q; another M stretches or compresses the speech.
            speaker: (G,) float32, for a generator that reads speaker vectors.
        Returns:
            (S,) in [-1, 1].
        """
        return self.generator.decode(
            codes[None],
            phones[None],
            torch.full((1,), phones.shape[0]),
            reference[None],
            torch.full((1,), reference.shape[1]),
            noise_BCT=noise[None],
            speaker_BV=None if speaker is None else speaker[None],
        )[0, 0]


class RecordingNetwork(nn.Module):
    """Hears a recording: HuBERT, and the quantiser of a generator."""

    hubert: Any

    def __init__(self, hubert: nn.Module, generator: SynthesizerTrn) -> None:
        super().__init__()
        self.hubert, self.ssl_proj, self.codebook = hubert, generator.ssl_proj, generator.quantizer.codebook

    def forward(self, wave: Tensor) -> tuple[Tensor, Tensor]:
        """Hear.

        Args:
            wave: (S,) float32 at 16 kHz, at the level that GPT-SoVITS feeds to HuBERT.
        Returns:
            content (T, W), in float32; and codes (Q,) int64, of content in half precision, as stores have it, whose
            last frame is there twice. Q = (T + 1) // 2.
        """
        features_1TC: Tensor = self.hubert.feature_extractor(wave[None]).mT
        content_1TW = self.hubert.encoder(self.hubert.feature_projection(features_1TC)).last_hidden_state
        stored_1TW = content_1TW.half().float()
        pairs_1WQ = self.ssl_proj(torch.cat((stored_1TW, stored_1TW[:, -1:]), dim=1).mT)
        return content_1TW[0], self.codebook.nearest(pairs_1WQ[0].mT)


def plain_convolutions(generator: SynthesizerTrn, *, images: bool = True) -> SynthesizerTrn:
    """Return a copy of a generator that computes the same by convolutions that are fast where graphs are run.

    They hold their weights as they are after weight normalisation, and those of the decoder are of images if asked for.
    """
    plain = copy.deepcopy(generator)
    for module in plain.modules():
        for name, child in module.named_children():
            if isinstance(child, WeightNorm):
                setattr(module, name, _plain(child))
    if images:
        _compute_images(plain.dec)
    return plain


def _plain(normalised: WeightNorm) -> nn.Module:
    """Return a convolution without weight normalisation that computes the same."""
    assert isinstance(normalised, nn.Conv1d | nn.ConvTranspose1d), "generators have no other ones"
    kind: Any = nn.ConvTranspose1d if isinstance(normalised, nn.ConvTranspose1d) else nn.Conv1d
    plain = kind(
        normalised.in_channels,
        normalised.out_channels,
        normalised.kernel_size,
        normalised.stride,
        normalised.padding,
        dilation=normalised.dilation,
        groups=normalised.groups,
        bias=normalised.bias is not None,
    )
    plain.weight = nn.Parameter(normalised.normalised().detach(), requires_grad=False)
    plain.bias = normalised.bias
    return plain


def _compute_images(decoder: Any) -> None:
    """Let the convolutions of a decoder be those of images of height 1, for which ONNX Runtime has fast kernels.

    In float32 v2's take 0.63 of the time. What follows the residual blocks of a stage divides their sum by its weights.
    Stages that INT8 computes with whole numbers add signals, and those that it keeps in float32 add images.
    """
    stages, count = len(decoder.ups), len(decoder.resblocks) // len(decoder.ups)
    decoder.divide = lambda total, _: total  # a leaky ReLU of a part is that part of a leaky ReLU
    for following in (*decoder.ups[1:], decoder.conv_post):
        following.weight = nn.Parameter(following.weight.detach() / count, requires_grad=False)
    first = max(0, stages - FLOAT32_STAGES)  # the first stage in float32, whose input comes from an upsampling in it
    for stage, transposed in enumerate(decoder.ups):
        upsampling = _Upsampling(transposed, to_signal=stage < first)
        decoder.ups[stage] = _of_signal(upsampling) if stage < first - 1 else upsampling
    for number, block in enumerate(decoder.resblocks):
        for convs in (block.convs1, block.convs2):
            for pair, conv in enumerate(convs):
                convs[pair] = _image_convolution(conv) if number >= first * count else _SignalConvolution(conv)
    decoder.conv_pre, decoder.cond = _SignalConvolution(decoder.conv_pre), _SignalConvolution(decoder.cond)
    decoder.conv_post = _image_convolution(decoder.conv_post)
    _keep_blocks(decoder, first)
    for stage in range(max(0, first - 1), first + 1):
        decoder.activations[stage] = _of_signal(decoder.activations[stage])
    decoder.register_forward_hook(lambda _, __, image: image.flatten(2))


def _keep_blocks(decoder: Any, first: int) -> None:
    """Let a decoder hold channels in blocks where INT8 keeps float32.

    ONNX Runtime has kernels for blocks of convolutions, of which a leaky ReLU can be a part, and of sums. For a leaky
    ReLU by itself it would lay the channels out anew, and again for what follows.

    Args:
        first: the first stage in float32.
    """
    count = len(decoder.resblocks) // len(decoder.ups)
    widths = [block.convs1[0].out_channels for block in decoder.resblocks[::count]]
    for stage in range(max(0, first - 2), len(widths)):
        if widths[stage] % BLOCK:
            continue
        if stage >= first:
            decoder.ups[stage] = nn.Sequential(decoder.ups[stage], _unchanged(widths[stage]))
            for block in decoder.resblocks[stage * count : (stage + 1) * count]:
                block.activation = nn.Sequential(_unchanged(widths[stage]), block.activation)
        decoder.activations[stage + 1] = nn.Sequential(_unchanged(widths[stage]), decoder.activations[stage + 1])


class _SignalConvolution(nn.Module):
    """A convolution of images that reads and writes signals.

    Kernels for whole numbers have channels last. What reshapes a signal keeps ONNX Runtime from laying out sums of what
    they write that way too: a scale for each channel would be slow there.
    """

    def __init__(self, convolution: nn.Conv1d) -> None:
        super().__init__()
        self.image = _of_signal(_image_convolution(convolution))
        self.out_channels = convolution.out_channels

    def forward(self, x_BCT: Tensor) -> Tensor:
        """Compute, (B, C, T)."""
        y_BC1T: Tensor = self.image(x_BCT)
        return y_BC1T.flatten(2)


def _of_signal(module: nn.Module) -> nn.Module:
    """Return a module of images that reads a signal."""
    return nn.Sequential(nn.Unflatten(2, (1, -1)), module)


class _Upsampling(nn.Module):
    """A transposed convolution as convolutions of images with an output for each place between two inputs.

    Transposed ones have no integer kernel. Place r of the stride s gets sum over j of x[u + a - j] w[b + j s], where
    r + padding = a s + b. Places that read the same inputs are those of one convolution.
    """

    def __init__(self, transposed: nn.ConvTranspose1d, *, to_signal: bool) -> None:
        """
        Args:
            to_signal: return a signal, and no image.
        """
        super().__init__()
        kernel, stride, padding = transposed.kernel_size[0], transposed.stride[0], transposed.padding[0]
        assert not isinstance(padding, str), "it is given in samples"
        assert kernel - stride == 2 * padding, "the output is `stride` times as long as the input"
        self.stride, self.to_signal = stride, to_signal
        self.paddings: list[tuple[int, int]] = []
        self.convs = nn.ModuleList()
        places = [divmod(place + padding, stride) for place in range(stride)]
        for (ahead, lags), group in groupby(places, lambda place: (place[0], len(range(place[1], kernel, stride)))):
            taps = [transposed.weight.detach()[:, :, begin::stride].flip(2).transpose(0, 1) for _, begin in group]
            bias = None if transposed.bias is None else transposed.bias.repeat(len(taps))
            self.convs.append(_image(torch.cat(taps), bias, 0, 1))
            self.paddings.append((lags - 1 - ahead, ahead))

    def forward(self, x_BC1T: Tensor) -> Tensor:
        """Upsample: a signal (B, C, stride * T), or an image, whose channels are the last ones in memory."""
        places = [conv(F.pad(x_BC1T, ends)) for conv, ends in zip(self.convs, self.paddings, strict=True)]
        if self.to_signal:
            y_BCT = torch.cat([place.flatten(2) for place in places], dim=1)
            return y_BCT.unflatten(1, (self.stride, -1)).permute(0, 2, 3, 1).flatten(2)
        y_B1TC = torch.cat(places, dim=1).permute(0, 2, 3, 1)
        return y_B1TC.unflatten(3, (self.stride, -1)).flatten(2, 3).permute(0, 3, 1, 2)


def _unchanged(channels: int) -> nn.Conv2d:
    """Return a convolution that returns what it reads."""
    convolution = nn.Conv2d(channels, channels, 1, groups=channels, bias=False)
    convolution.weight = nn.Parameter(torch.ones(channels, 1, 1, 1), requires_grad=False)
    return convolution


def _image_convolution(convolution: nn.Conv1d) -> nn.Conv2d:
    """Return a convolution of signals as one of images of height 1."""
    assert not isinstance(convolution.padding, str), "it is given in samples"
    return _image(convolution.weight, convolution.bias, convolution.padding[0], convolution.dilation[0])


def _image(weight_OIK: Tensor, bias: Tensor | None, padding: int, dilation: int) -> nn.Conv2d:
    outputs, inputs, kernel = weight_OIK.shape
    image = nn.Conv2d(inputs, outputs, (1, kernel), padding=(0, padding), dilation=(1, dilation), bias=bias is not None)
    image.weight = nn.Parameter(weight_OIK.detach()[:, :, None], requires_grad=False)
    image.bias = None if bias is None else nn.Parameter(bias.detach(), requires_grad=False)
    return image


class _PromptAttention:
    """Attention under a mask, (L, L) bool, that keeps keys and values. It is an `AttentionFn`."""

    def __init__(self, mask_LL: Tensor) -> None:
        self._mask_LL = mask_LL
        self.cached: tuple[Tensor, Tensor]

    def __call__(self, q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor, dropout: float) -> Tensor:
        self.cached = k_BHLD, v_BHLD
        return attend(q_BHLD, k_BHLD, v_BHLD, mask=self._mask_LL[None, None])


class _StepAttention:
    """Attention of one position to those of a cache before it, and to itself. It is an `AttentionFn`.

    Its own key and value are not copied into the cache: scores are joined, which are smaller.
    """

    def __init__(self, keys_HRD: Tensor, values_HRD: Tensor, position: Tensor) -> None:
        self._keys, self._values, self._position = keys_HRD[None], values_HRD[None], position
        self.cached: tuple[Tensor, Tensor]

    def __call__(self, q_BHLD: Tensor, k_BHLD: Tensor, v_BHLD: Tensor, dropout: float) -> Tensor:
        self.cached = k_BHLD, v_BHLD
        q_BHLD = q_BHLD * q_BHLD.shape[3] ** -0.5
        before_R = torch.arange(self._keys.shape[2]) < self._position
        scores = (q_BHLD @ self._keys.mT).masked_fill(~before_R, -torch.inf)
        weights = torch.cat((scores, q_BHLD @ k_BHLD.mT), dim=3).softmax(dim=3)
        return weights[..., :-1] @ self._values + weights[..., -1:] * v_BHLD
