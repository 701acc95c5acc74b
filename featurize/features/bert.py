"""`bert`: what a Chinese text means, at each of its phones, by a BERT (Devlin et al. 2019) as GPT-SoVITS reads it.

Shapes: U utterances, L characters, P phones, W width.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from headrace.featurize.alignment.words import indexed_text
from headrace.featurize.features import huggingface, weight_files
from headrace.featurize.features.derived import Derived, Part
from headrace.featurize.features.huggingface import Precision
from headrace.store.errors import UsageError
from headrace.store.schema import FeatureSpec

WIDTH, LAYER, POSITIONS = 1024, -3, 512
LANGUAGE = "zh"
VOCABULARIES = ("tokenizer.json", "vocab.txt")
BEGIN, END, UNKNOWN, PADDING = "[CLS]", "[SEP]", "[UNK]", "[PAD]"


@dataclass(frozen=True, kw_only=True)
class Bert(Derived):
    """Hidden state of the third layer from the top, one row for every phone of a character. Zeros where the language is
    another, or nobody knows which character a phone belongs to."""

    bert: Path
    """A folder as transformers writes them, such as chinese-roberta-wwm-ext-large."""
    precision: Precision = "fp32"
    """What the network computes in. What is not finite in half precision is computed again in fp32."""

    name, needs, axis, dtype = "bert", ("phone_word",), "phones", "float16"
    channels, on_gpu = WIDTH, True
    TOGETHER = 32  # utterances
    LONGEST = POSITIONS - 2  # characters between begin and end; what is longer is read in pieces

    def recipe(self, there: Mapping[str, FeatureSpec]) -> dict[str, Any]:
        folder = huggingface.inspect_folder(
            self.bert, "bert", "--bert", hidden_size=WIDTH, max_position_embeddings=POSITIONS
        )
        vocabulary = weight_files.digest([_vocabulary_file(self.bert)])
        read = {"layer": LAYER, "language": LANGUAGE, "missing": "zeros", "precision": self.precision}
        return {"network": "bert", **folder.recipe, "vocabulary": vocabulary, **read}

    def rows(self, part: Part) -> Iterator[np.ndarray]:
        words = list(part.utterances("phone_word"))
        known = (part.strings("language"), part.strings("text"), part.strings("aligned"))
        characters = list(map(partial(_characters, part), *known, words))
        for start in range(0, len(words), self.TOGETHER):
            some = slice(start, start + self.TOGETHER)
            for features_LW, words_P in zip(self._features(part, characters[some]), words[some], strict=True):
                rows = np.zeros((len(words_P), WIDTH), np.float16)
                if len(features_LW):
                    rows[words_P >= 0] = features_LW[words_P[words_P >= 0]]
                yield rows

    def _features(self, part: Part, characters: Sequence[str]) -> Iterator[np.ndarray]:
        """(L, W) float16 of each of some texts, of which some may be empty."""
        cuts = [range(0, len(one), self.LONGEST) for one in characters]
        pieces = [
            one[start : start + self.LONGEST] for one, starts in zip(characters, cuts, strict=True) for start in starts
        ]
        made = iter(
            huggingface.finite(partial(self._hidden, part), pieces, self.precision, part, f"--bert {self.bert}")
        )
        for starts in cuts:
            yield np.concatenate([np.empty((0, WIDTH), np.float16), *(next(made) for _ in starts)])

    @torch.inference_mode()
    def _hidden(self, part: Part, precision: Precision, pieces: Sequence[str]) -> list[np.ndarray]:
        """(L, W) float16 of each piece, whatever else is in the batch."""
        if not pieces:
            return []
        digest = part.specs[self.name].recipe["weights"]
        network = huggingface.network("BertModel", self.bert, "bert", "--bert", digest, part.device, precision)
        ids, padding = _ids(_vocabulary(_vocabulary_file(self.bert)), pieces)
        ids_UL = pad_sequence(ids, batch_first=True, padding_value=padding).to(part.device)
        lengths_U = torch.tensor([len(one) for one in ids], device=part.device)
        valid_UL = torch.arange(ids_UL.shape[1], device=part.device) < lengths_U[:, None]
        states = network(ids_UL, attention_mask=valid_UL.long(), output_hidden_states=True).hidden_states
        made = states[LAYER].half().cpu().numpy()
        return [rows[1 : len(one) - 1] for rows, one in zip(made, ids, strict=True)]


def _characters(part: Part, language: str, written: str, aligned: int, words_P: np.ndarray) -> str:
    """The characters that phones were counted by; none where there are no features to be."""
    if language != LANGUAGE or not (words_P >= 0).any():
        return ""
    characters = indexed_text(written, language, words_P, part.specs["phone_word"].recipe, aligned=bool(aligned))
    if not characters:
        part.counts["texts whose phones are of other characters: zeros"] += 1
    return characters


def _vocabulary_file(folder: Path) -> Path:
    for name in VOCABULARIES:
        if (folder / name).is_file():
            return folder / name
    raise UsageError(f"--bert {folder} holds no vocabulary: neither {' nor '.join(VOCABULARIES)}.")


@cache
def _vocabulary(file: Path) -> dict[str, int]:
    """Token to id."""
    try:
        if file.suffix == ".txt":
            return {token: n for n, token in enumerate(file.read_text(encoding="utf-8").split("\n"))}
        return {str(token): int(n) for token, n in json.loads(file.read_bytes())["model"]["vocab"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"--bert: {file} is no vocabulary of single characters ({error!r}).") from error


def _ids(vocabulary: Mapping[str, int], pieces: Sequence[str]) -> tuple[list[torch.Tensor], int]:
    """Ids of the characters of each piece between those of its begin and end; and the id of padding."""
    try:
        begin, end, unknown, padding = (vocabulary[token] for token in (BEGIN, END, UNKNOWN, PADDING))
    except KeyError as error:
        raise UsageError(f"--bert: the vocabulary lacks {error}.") from None
    found = ([vocabulary.get(char.lower(), unknown) for char in piece] for piece in pieces)
    return [torch.tensor([begin, *ids, end]) for ids in found], padding
