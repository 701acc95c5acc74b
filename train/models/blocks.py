"""The blocks that both models are built of: what is compiled, or gathered from other processes, piece by piece."""

from __future__ import annotations

from headrace.train.models.attention import Encoder
from headrace.train.models.discriminator import PeriodDiscriminator, ScaleDiscriminator
from headrace.train.models.flow import WaveNet
from headrace.train.models.transformer import Layer
from headrace.train.models.vocoder import ResBlock

BLOCKS = (Layer, Encoder, WaveNet, ResBlock, ScaleDiscriminator, PeriodDiscriminator)
