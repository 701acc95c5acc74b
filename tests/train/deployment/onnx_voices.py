"""A miniature voice, exported to ONNX once a process."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from headrace.train.checkpoints.origin import UNKNOWN
from headrace.train.deployment.onnx_export import Networks, export_onnx
from headrace.train.models import gpt_config, sovits_config
from headrace.train.models.flow import CouplingLayer
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.models.speech_reference import Reference

SOVITS = replace(
    sovits_config.tiny(),
    couplings=1,
    coupling_layers=1,
    n_layers=2,
    upsample_initial_channel=32,
    resblock_kernel_sizes=(3,),
    resblock_dilation_sizes=((1,),),
    speaker_channels=6,
)
GPT = replace(gpt_config.tiny(), layers=2, channels=16, heads=2, bert_channels=5)


@cache
def networks() -> Networks:
    """Return networks with weights that are always the same, none of them zero."""
    torch.manual_seed(3)
    generator = SynthesizerTrn(SOVITS).eval()
    del generator.enc_q
    generator.quantizer.codebook.embed.normal_()
    for module in generator.flow.flows:
        if isinstance(module, CouplingLayer):
            torch.nn.init.normal_(module.post.weight, 0, 0.1)
    decoder = Text2SemanticDecoder(GPT).eval()
    generator.codebooks, decoder.codebook = frozenset({"abc"}), "abc"
    sources = {"sovits": "VOICE, step 3 (newest)", "gpt": "TEXT, step 4 (best)"}
    return Networks(generator=generator, decoder=decoder, sources=sources, origins={"sovits": UNKNOWN, "gpt": UNKNOWN})


def reference() -> Reference:
    """Return a reference with everything that one can have."""
    random = np.random.default_rng(5)
    return Reference(
        spec=random.random((SOVITS.spec_bins, 20), np.float32),
        phones=np.array([3, 1, 4, 1, 5]),
        codes=np.array([9, 2, 6]),
        bert=random.random((5, GPT.bert_channels), np.float32),
        speaker=random.random(SOVITS.speaker_channels, np.float32),
    )


@cache
def exported() -> Path:
    """Return the folder of the voice. Not to be written into."""
    folder = Path(tempfile.mkdtemp(prefix="onnx-voice-")) / "voice"
    export_onnx(networks(), folder, reference=reference())
    return folder
