"""Small random networks in the forms that others publish theirs in."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import BertConfig, BertModel, HubertConfig, HubertModel, Wav2Vec2Config, Wav2Vec2ForCTC

HUBERT = HubertConfig(
    hidden_size=768,
    num_hidden_layers=2,
    num_attention_heads=12,
    intermediate_size=64,
    conv_dim=(16,) * 7,
    num_conv_pos_embeddings=16,
    num_conv_pos_embedding_groups=16,
)
VOCABULARY = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", *"你好世界,.!?a")


def hubert(folder: Path, config: HubertConfig = HUBERT, seed: int = 0) -> HubertModel:
    torch.manual_seed(seed)
    network = HubertModel(config).eval()
    network.save_pretrained(folder)
    return network


def ctc(folder: Path, tokens: Sequence[str], seed: int = 0, **changes: Any) -> Wav2Vec2ForCTC:
    """With CTC's blank and three more before these tokens."""
    torch.manual_seed(seed)
    numbers = {token: number for number, token in enumerate(("<pad>", "<s>", "</s>", "<unk>", *tokens))}
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32}
    positions = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4}
    options = {**sizes, **positions, "conv_dim": (16,) * 7, "vocab_size": len(numbers), "pad_token_id": 0, **changes}
    network = Wav2Vec2ForCTC(Wav2Vec2Config(**options)).eval()
    network.save_pretrained(folder)
    (folder / "vocab.json").write_text(json.dumps(numbers), encoding="utf-8")
    return network


class SeenShapes(NamedTuple):
    samples: set[tuple[int, ...]]
    """Shapes of what first convolutions were given."""
    hidden: set[tuple[int, ...]]
    """Shapes of what encoders were given."""


@contextmanager
def batches_seen() -> Iterator[SeenShapes]:
    """Within this context, the shapes of batches are recorded that HuBERT and wav2vec 2.0 compute."""
    seen = SeenShapes(set(), set())

    def note(module: nn.Module, given: tuple[Tensor, ...]) -> None:
        if isinstance(module, nn.Conv1d) and module.in_channels == 1:
            seen.samples.add(tuple(given[0].shape))
        elif type(module).__name__ in ("HubertEncoder", "Wav2Vec2Encoder"):
            seen.hidden.add(tuple(given[0].shape))

    watch = nn.modules.module.register_module_forward_pre_hook(note)
    try:
        yield seen
    finally:
        watch.remove()


def bert(folder: Path, width: int = 1024) -> BertModel:
    torch.manual_seed(0)
    sizes = {"num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 32, "max_position_embeddings": 512}
    network = BertModel(BertConfig(vocab_size=len(VOCABULARY), hidden_size=width, **sizes)).eval()
    network.save_pretrained(folder)
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY), encoding="utf-8")
    return network


def quantiser(width: int, codes: int = 1024) -> dict[str, Tensor]:
    """What of a SoVITS generator makes codes."""
    torch.manual_seed(1)
    return {
        "ssl_proj.weight": torch.randn(width, width, 2) / width**0.5,
        "ssl_proj.bias": torch.randn(width) / 10,
        "quantizer.vq.layers.0._codebook.embed": torch.randn(codes, width),
    }


def sovits(file: Path, width: int, codes: int = 1024, **more: Any) -> dict[str, Tensor]:
    """A checkpoint as GPT-SoVITS writes it, as far as codes go."""
    named = quantiser(width, codes)
    torch.save({"weight": named, "config": {}, "info": "", **more}, file)
    return named


def config_of(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((folder / "config.json").read_text())
    return found
