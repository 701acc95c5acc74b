"""The SoVITS generator of GPT-SoVITS, v1 to v2ProPlus: VITS (Kim, Kong and Son 2021) with quantised content features
beside text.

A prior is computed from content codes, phones and voice, and a posterior from the spectrogram. A flow maps one onto the
other, and a decoder turns latent frames into waveform. Parameters have the names and shapes of published weights.

Shapes: B batch, T frames (even), Q = T / 2 content codes, P phones, C latent channels, F spectrogram bins,
W content channels, G voice channels, V channels of a speaker vector, N frames of a training segment, S samples.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headrace.featurize.spectral.float32 import exact_float32
from headrace.store.errors import UsageError
from headrace.train.models.attention import MRTE, Encoder
from headrace.train.models.flow import PosteriorEncoder, ResidualCouplingFlow
from headrace.train.models.layers import length_mask, slice_segments
from headrace.train.models.quantizer import VectorQuantizer
from headrace.train.models.sovits_config import SovitsConfig
from headrace.train.models.style_encoder import MelStyleEncoder
from headrace.train.models.vocoder import HifiGanDecoder


class TextEncoder(nn.Module):
    """Encode content codes, phones and voice to the prior of the latent."""

    def __init__(self, config: SovitsConfig) -> None:
        super().__init__()
        hidden = config.hidden_channels

        def encoder(layers: int) -> Encoder:
            return Encoder(hidden, config.filter_channels, config.n_heads, layers, config.kernel_size, config.p_dropout)

        self.ssl_proj = nn.Conv1d(config.ssl_channels, hidden, 1)
        self.encoder_ssl = encoder(config.n_layers // 2)
        self.encoder_text = encoder(config.n_layers)
        self.text_embedding = nn.Embedding(config.symbols, hidden)
        self.mrte = MRTE(hidden, config.mrte_channels, config.mrte_heads)
        self.encoder2 = encoder(config.n_layers // 2)
        self.proj = nn.Conv1d(hidden, 2 * config.inter_channels, 1)

    def forward(
        self, content_BWT: Tensor, mask_B1T: Tensor, phones_BP: Tensor, phones_n_B: Tensor, timbre_BG1: Tensor
    ) -> Tensor:
        """Return hidden frames (B, hidden, T), the input of `prior`."""
        content = self.encoder_ssl(self.ssl_proj(content_BWT * mask_B1T), mask_B1T)
        mask_B1P = length_mask(phones_n_B, phones_BP.shape[1])
        text = self.encoder_text(self.text_embedding(phones_BP).mT, mask_B1P)
        return self.encoder2(self.mrte(content, mask_B1T, text, mask_B1P, timbre_BG1), mask_B1T)

    def prior(self, hidden_BHT: Tensor, mask_B1T: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and log standard deviation, (B, C, T) each."""
        mean, log_std = (self.proj(hidden_BHT) * mask_B1T).chunk(2, dim=1)
        return mean, log_std


@dataclass(frozen=True, slots=True, kw_only=True)
class Synthesis:
    """Output of a forward pass in training."""

    wave: Tensor
    """(B, 1, N * hop), the decoded segments."""
    codes: Tensor
    """(B, Q) int64."""
    commitment: Tensor
    """() float32, mean squared distance of content from its codes."""
    mask: Tensor
    """(B, 1, T) bool, valid frames."""
    z: Tensor
    """(B, C, T), the posterior's sample."""
    z_p: Tensor
    """(B, C, T), the same after the flow."""
    m_p: Tensor
    logs_p: Tensor
    """(B, C, T), mean and log standard deviation of the prior."""
    m_q: Tensor
    logs_q: Tensor
    """(B, C, T), mean and log standard deviation of the posterior."""


class SynthesizerTrn(nn.Module):
    """The SoVITS generator. All randomness except dropout and codebook updates is passed as arguments."""

    codebooks: frozenset[str] = frozenset()
    """Digests that stand for its codebook, for weights that were loaded: that of the quantiser, and that of the
    clusters which it was made of."""
    origin: str = ""
    """What they were trained on, in words; empty if it is not known."""
    ranges: Mapping[str, Tensor] | None = None
    """Ranges of what its layers read and write, if it was trained to compute in INT8."""

    def __init__(self, config: SovitsConfig) -> None:
        super().__init__()
        self.config = config
        channels, voice = config.inter_channels, config.voice_channels
        self.enc_p = TextEncoder(config)
        self.dec = HifiGanDecoder(
            channels,
            voice,
            widths=config.decoder_widths,
            rates=config.upsample_rates,
            rate_kernels=config.upsample_kernel_sizes,
            kernels=config.resblock_kernel_sizes,
            dilations=config.resblock_dilation_sizes,
            activation_checkpointing=config.activation_checkpointing,
        )
        hidden, checkpointing = config.hidden_channels, config.activation_checkpointing
        self.enc_q = PosteriorEncoder(
            config.spec_bins,
            channels,
            hidden,
            config.posterior_layers,
            voice,
            activation_checkpointing=checkpointing,
        )
        self.flow = ResidualCouplingFlow(
            channels,
            config.flow_width,
            config.couplings,
            config.coupling_layers,
            voice,
            activation_checkpointing=checkpointing,
        )
        self.ref_enc = MelStyleEncoder(config.style_bins, config.style_channels, voice)
        self.ssl_proj = nn.Conv1d(config.ssl_channels, config.ssl_channels, 2, stride=2)
        self.quantizer = VectorQuantizer(config.codebook_size, config.ssl_channels)
        if config.freeze_quantizer:
            self.ssl_proj.requires_grad_(False)
        if config.speaker_channels:
            self.sv_emb = nn.Linear(config.speaker_channels, voice)
            self.ge_to512 = nn.Linear(voice, config.mrte_channels)
            self.prelu = nn.PReLU(voice)
        self.train()

    @torch.no_grad()
    def set_quantiser(self, weight: Tensor, bias: Tensor, entries: Tensor) -> None:
        """Set content projection, (W, W, 2) and (W,), and codebook, (K, W)."""
        self.ssl_proj.weight.copy_(weight)
        self.ssl_proj.bias.copy_(bias)  # type: ignore[union-attr]
        codebook = self.quantizer.codebook
        codebook.embed.copy_(entries)
        codebook.embed_avg.copy_(entries)
        codebook.cluster_size.fill_(1)
        codebook.inited.fill_(1)

    def freeze_training_part(self) -> SynthesizerTrn:
        """Let the posterior encoder, which speech does not need, stay as it is. Returns the generator."""
        self.enc_q.requires_grad_(False)
        return self

    def train(self, mode: bool = True) -> SynthesizerTrn:
        """Set the mode of all modules; a frozen quantiser stays in evaluation mode."""
        super().train(mode)
        self.quantizer.train(mode and not self.config.freeze_quantizer)
        return self

    def forward(
        self,
        content_BWT: Tensor | None,
        spec_BFT: Tensor,
        frames_B: Tensor,
        phones_BP: Tensor,
        phones_n_B: Tensor,
        *,
        noise_BCT: Tensor,
        starts_B: Tensor,
        speaker_BV: Tensor | None = None,
        codes_BQ: Tensor | None = None,
    ) -> Synthesis:
        """Encode whole utterances, decode a segment of each.

        Args:
            content_BWT: content features, zero past each end; T is even. None where there are codes.
            spec_BFT: linear spectrogram, zero past each end.
            frames_B, phones_n_B: numbers of frames and phones, 1 at least.
            phones_BP: int64 ids, any valid id past each end.
            noise_BCT: standard normal, for the sample of the posterior.
            starts_B: int64, first frame of each segment; starts + segment_frames <= T.
            speaker_BV: speaker vectors, for a model that reads them.
            codes_BQ: int64, the content features quantised by this model; any code past each end.
        """
        mask = length_mask(frames_B, spec_BFT.shape[2])
        voice = self.voice(spec_BFT, mask, speaker_BV)
        if codes_BQ is None:
            assert content_BWT is not None, "neither content features nor codes"
            quantised, codes, commitment = self.quantise(content_BWT, mask)
        else:
            quantised, codes, commitment = self.quantizer.decode(codes_BQ), codes_BQ, spec_BFT.new_zeros(())
        hidden = self.enc_p(_to_frames(quantised), mask, phones_BP, phones_n_B, self.timbre(voice))
        m_p, logs_p = self.enc_p.prior(hidden, mask)
        m_q, logs_q = self.enc_q(spec_BFT, mask, voice)
        z = _latent(m_q, logs_q, noise_BCT, mask)
        z_p = self.flow(z, mask, voice)
        wave = self.dec(slice_segments(z, starts_B, self.config.segment_frames), voice)
        return Synthesis(
            wave=wave, codes=codes, commitment=commitment, mask=mask,
            z=z, z_p=z_p, m_p=m_p, logs_p=logs_p, m_q=m_q, logs_q=logs_q,
        )  # fmt: skip

    def reconstruct(
        self,
        spec_BFT: Tensor,
        frames_B: Tensor,
        *,
        noise_BCT: Tensor,
        starts_B: Tensor,
        speaker_BV: Tensor | None = None,
        segment_frames: int = 0,
    ) -> Tensor:
        """Return only the decoded segments of `forward`, (B, 1, N * hop), which do not depend on text and content.

        Args:
            segment_frames: N, where it is not that of the model's config.
        """
        mask = length_mask(frames_B, spec_BFT.shape[2])
        voice = self.voice(spec_BFT, mask, speaker_BV)
        m_q, logs_q = self.enc_q(spec_BFT, mask, voice)
        z = _latent(m_q, logs_q, noise_BCT, mask)
        return self.dec(slice_segments(z, starts_B, segment_frames or self.config.segment_frames), voice)

    def say_segments(
        self,
        codes_BQ: Tensor,
        spec_BFT: Tensor,
        frames_B: Tensor,
        phones_BP: Tensor,
        phones_n_B: Tensor,
        *,
        noise_BCT: Tensor,
        starts_B: Tensor,
        speaker_BV: Tensor | None = None,
    ) -> Tensor:
        """Decode segments of codes and phones as `decode` says them, (B, 1, N * hop), each in its own voice.

        Args:
            All as for `forward`.
        """
        mask = length_mask(frames_B, spec_BFT.shape[2])
        voice = self.voice(spec_BFT, mask, speaker_BV)
        content = _to_frames(self.quantizer.decode(codes_BQ))
        hidden = self.enc_p(content, mask, phones_BP, phones_n_B, self.timbre(voice))
        z = self._speech_latent(hidden, mask, voice, noise_BCT)
        return self.dec(slice_segments(z, starts_B, self.config.segment_frames), voice)

    def _speech_latent(
        self, hidden_BHT: Tensor, mask_B1T: Tensor, voice_BG1: Tensor, noise_BCT: Tensor | None, scale: float = 0.5
    ) -> Tensor:
        """Sample the prior, and map it to the latent that is decoded. (B, C, T)."""
        m_p, logs_p = self.enc_p.prior(hidden_BHT, mask_B1T)
        noise = torch.randn_like(m_p) if noise_BCT is None else noise_BCT
        return self.flow(m_p + noise * torch.exp(logs_p) * scale, mask_B1T, voice_BG1, reverse=True)

    def voice(self, spec_BFT: Tensor, mask_B1T: Tensor, speaker_BV: Tensor | None = None) -> Tensor:
        """Return the voice vector of each recording, (B, G, 1).

        Raises:
            UsageError: the model reads speaker vectors and none were given.
        """
        voice_BG1 = self.ref_enc(spec_BFT[:, : self.config.style_bins], mask_B1T)
        if not self.config.speaker_channels:
            return voice_BG1
        if speaker_BV is None:
            raise UsageError("This model reads a speaker vector beside the spectrogram, and none was given.")
        return self.prelu(voice_BG1 + self.sv_emb(speaker_BV)[:, :, None])

    def timbre(self, voice_BG1: Tensor) -> Tensor:
        """Project the voice vector to the width of the MRTE."""
        return self.ge_to512(voice_BG1.mT).mT if self.config.speaker_channels else voice_BG1

    def quantise(self, content_BWT: Tensor, mask_B1T: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Quantise content features at half the frame rate, in float32.

        Returns:
            quantised (B, W, Q), codes (B, Q), commitment loss ().
        """
        needs_grad = torch.is_grad_enabled() and not self.config.freeze_quantizer
        with exact_float32(content_BWT.device), torch.set_grad_enabled(needs_grad):
            return self.quantizer(self.ssl_proj(content_BWT.float()), mask_B1T[:, 0, ::2])

    def decode(
        self,
        codes_BQ: Tensor,
        phones_BP: Tensor,
        phones_n_B: Tensor,
        reference_BFT: Tensor,
        reference_frames_B: Tensor,
        *,
        noise_scale: float = 0.5,
        speed: float = 1.0,
        noise_BCT: Tensor | None = None,
        speaker_BV: Tensor | None = None,
    ) -> Tensor:
        """Decode codes and phones to speech in the voice of a reference recording. All rows have the full length.

        Args:
            codes_BQ: int64 content codes, two frames each.
            reference_BFT: linear spectrogram of the recording whose voice is imitated.
            noise_scale: factor on the standard deviation of the prior.
            speed: 2.0 speaks twice as fast.
            noise_BCT: standard normal; drawn if not given. Speech has as many frames, whatever the speed.
            speaker_BV: speaker vector of the recording, for a model that reads one.
        Returns:
            (B, 1, S) in [-1, 1].
        """
        voice = self.voice(reference_BFT, length_mask(reference_frames_B, reference_BFT.shape[2]), speaker_BV)
        content = _to_frames(self.quantizer.decode(codes_BQ))
        mask = torch.ones_like(content[:, :1], dtype=torch.bool)
        hidden = self.enc_p(content, mask, phones_BP, phones_n_B, self.timbre(voice))
        if noise_BCT is not None or speed != 1.0:
            size = int(hidden.shape[2] / speed) + 1 if noise_BCT is None else noise_BCT.shape[2]
            hidden = F.interpolate(hidden, size=size, mode="linear")
            mask = mask[:, :, :1].expand(-1, -1, size)
        return self.dec(self._speech_latent(hidden, mask, voice, noise_BCT, noise_scale), voice)


def _latent(m_q_BCT: Tensor, logs_q_BCT: Tensor, noise_BCT: Tensor, mask_B1T: Tensor) -> Tensor:
    """Sample the posterior. (B, C, T)."""
    return (m_q_BCT + noise_BCT * torch.exp(logs_q_BCT)) * mask_B1T


def _to_frames(codes_BWQ: Tensor) -> Tensor:
    """Repeat each code, from 25 Hz to 50 Hz."""
    return codes_BWQ.repeat_interleave(2, dim=2)
