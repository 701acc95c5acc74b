"""The feature `bert`: hidden states of a Chinese BERT (Devlin et al. 2019), one row per phone, as GPT-SoVITS uses them.

Shapes: U utterances, L characters, P phones, W width.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from headrace.featurize.alignment.words import indexed_text
from headrace.featurize.features import huggingface, network_config, weight_files
from headrace.featurize.features.derived import Derived, Part
from headrace.featurize.features.huggingface import Precision
from headrace.featurize.files.load_once import load_once
from headrace.featurize.spectral.float32 import without_tf32
from headrace.featurize.text import reading_options
from headrace.store.errors import UsageError
from headrace.store.schema import FeatureSpec

WIDTH, LAYER, POSITIONS = 1024, -3, 512
LANGUAGE = "zh"
VOCABULARIES = ("tokenizer.json", "vocab.txt")
VOCABULARY_SIZE = 30522
"""Default of a config, as in transformers."""
BEGIN, END, UNKNOWN, PADDING = "[CLS]", "[SEP]", "[UNK]", "[PAD]"


@dataclass(frozen=True, kw_only=True)
class Bert(Derived):
    """Hidden states of the third layer from the top, each character's repeated for all of its phones.

    Rows are zero where the language is not Chinese, or where the character of a phone is not known.
    """

    bert: Path
    """Folder of a model as transformers saves it, such as chinese-roberta-wwm-ext-large."""
    precision: Precision = "fp32"
    """Precision of the network. Results that are not finite in half precision are computed again in fp32."""

    name, needs, axis, dtype = "bert", ("phone_word",), "phones", "float16"
    channels, on_gpu = WIDTH, True
    BATCH = 32  # utterances
    MAX_CHARACTERS = POSITIONS - 2  # characters between BEGIN and END; longer texts are read in pieces

    def recipe(self, specs: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        folder = huggingface.inspect_folder(
            self.bert, "bert", "--bert", hidden_size=WIDTH, max_position_embeddings=POSITIONS
        )
        file = _vocabulary_file(self.bert)
        vocabulary = weight_files.digest([file])
        _vocabulary(file, vocabulary, folder.sizes.get("vocab_size", VOCABULARY_SIZE))
        read = {"layer": LAYER, "language": LANGUAGE, "missing": "zeros", "precision": self.precision}
        return {"network": "bert", **folder.recipe, "vocabulary": vocabulary, **read}

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        indices = list(part.utterances("phone_word"))
        columns = (part.strings("language"), part.strings("text"), part.strings("aligned"))
        characters = list(map(partial(_characters, part), *columns, indices))
        for start in range(0, len(indices), self.BATCH):
            batch = slice(start, start + self.BATCH)
            for features_LW, index_P in zip(self._features(part, characters[batch]), indices[batch], strict=True):
                rows = np.zeros((len(index_P), WIDTH), np.float16)
                if len(features_LW):
                    rows[index_P >= 0] = features_LW[index_P[index_P >= 0]]
                yield rows

    def _features(self, part: Part, characters: Sequence[str]) -> Iterator[np.ndarray]:
        """Yield the hidden states (L, W) float16 of each text; L is 0 for an empty one."""
        cuts = [range(0, len(one), self.MAX_CHARACTERS) for one in characters]
        pieces = [
            one[start : start + self.MAX_CHARACTERS]
            for one, starts in zip(characters, cuts, strict=True)
            for start in starts
        ]
        hidden = iter(
            huggingface.compute_finite(partial(self._hidden, part), pieces, self.precision, part, f"--bert {self.bert}")
        )
        for starts in cuts:
            yield np.concatenate([np.empty((0, WIDTH), np.float16), *(next(hidden) for _ in starts)])

    @torch.inference_mode()
    @without_tf32()
    def _hidden(self, part: Part, precision: Precision, pieces: Sequence[str]) -> list[np.ndarray]:
        """Return the hidden states (L, W) float16 of each piece, independent of the rest of the batch."""
        if not pieces:
            return []
        recipe = part.specs[self.name].recipe
        digest, file = recipe["weights"], _vocabulary_file(self.bert)
        network = huggingface.load_network("BertModel", self.bert, "bert", "--bert", digest, part.device, precision)
        ids, padding = _ids(_vocabulary(file, recipe["vocabulary"], network.config.vocab_size), pieces)
        ids_UL = pad_sequence(ids, batch_first=True, padding_value=padding).to(part.device)
        lengths_U = torch.tensor([len(one) for one in ids], device=part.device)
        valid_UL = torch.arange(ids_UL.shape[1], device=part.device) < lengths_U[:, None]
        states = network(ids_UL, attention_mask=valid_UL.long(), output_hidden_states=True).hidden_states
        hidden = states[LAYER].half().cpu().numpy()
        return [rows[1 : len(one) - 1] for rows, one in zip(hidden, ids, strict=True)]


def _characters(part: Part, language: str, written: str, aligned: int, index_P: np.ndarray) -> str:
    """Return the characters that `phone_word` indexes; empty where the features are zeros."""
    if language != LANGUAGE or not (index_P >= 0).any():
        return ""
    recipe, known = part.specs["phone_word"].recipe, reading_options.of_specs(part.specs)
    characters = indexed_text(written, language, index_P, recipe, aligned=bool(aligned), options=known)
    if not characters:
        part.counts["texts whose phones are of other characters: zeros"] += 1
    return characters


def _vocabulary_file(folder: Path) -> Path:
    for name in VOCABULARIES:
        if (folder / name).is_file():
            return folder / name
    raise UsageError(f"--bert {folder} holds no vocabulary: neither {' nor '.join(VOCABULARIES)}.")


@load_once
def _vocabulary(file: Path, digest: str, size: int) -> dict[str, int]:
    """Read a vocabulary: id of each character and special token.

    Args:
        digest: of the file.
        size: tokens that the network knows.
    Raises:
        UsageError: the file is not a vocabulary of such a network, or another one than `digest` says.
    """
    weight_files.check_digest([file], digest)
    try:
        if file.stat().st_size > network_config.MAX_VOCABULARY:
            raise ValueError(f"it has more than {network_config.MAX_VOCABULARY:,} bytes")
        if file.suffix == ".txt":
            lines = file.read_text(encoding="utf-8").split("\n")
            found = {token: n for n, token in enumerate(lines)}
        else:
            content = network_config.read_json(file, network_config.MAX_VOCABULARY)
            found = {str(token): int(n) for token, n in content["model"]["vocab"].items()}
    except (OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise UsageError(f"--bert: {file} is no vocabulary of single characters ({repr(error)[:200]}).") from error
    used = {token: n for token, n in found.items() if len(token) == 1 or token in (BEGIN, END, UNKNOWN, PADDING)}
    if wrong := next((token for token, n in used.items() if not 0 <= n < size), None):
        raise UsageError(f"--bert: {file} numbers {wrong!r} {used[wrong]}, and the network has {size} tokens.")
    return used


def _ids(vocabulary: Mapping[str, int], pieces: Sequence[str]) -> tuple[list[torch.Tensor], int]:
    """Return the ids (L + 2,) of each piece, enclosed in BEGIN and END, and the id of padding."""
    try:
        begin, end, unknown, padding = (vocabulary[token] for token in (BEGIN, END, UNKNOWN, PADDING))
    except KeyError as error:
        raise UsageError(f"--bert: the vocabulary lacks {error}.") from None
    found = ([vocabulary.get(char.lower(), unknown) for char in piece] for piece in pieces)
    return [torch.tensor([begin, *ids, end]) for ids in found], padding
