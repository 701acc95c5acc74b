"""A miniature voice, exported to ONNX once a process."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

from headrace.train.checkpoints.origin import UNKNOWN
from headrace.train.deployment.onnx_export import Networks, export_onnx
from headrace.train.models import gpt_config, sovits_config
from headrace.train.models.flow import CouplingLayer
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.models.text_to_speech import Reference

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
    random = torch.Generator().manual_seed(5)
    return Reference(
        spec=torch.rand(SOVITS.spec_bins, 20, generator=random),
        phones=torch.tensor([3, 1, 4, 1, 5]),
        codes=torch.tensor([9, 2, 6]),
        bert=torch.rand(5, GPT.bert_channels, generator=random),
        speaker=torch.rand(SOVITS.speaker_channels, generator=random),
    )


@cache
def exported() -> Path:
    """Return the folder of the voice. Not to be written into."""
    folder = Path(tempfile.mkdtemp(prefix="onnx-voice-")) / "voice"
    export_onnx(networks(), folder, reference=reference())
    return folder
