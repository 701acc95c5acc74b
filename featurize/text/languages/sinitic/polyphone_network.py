"""Read Chinese characters of several readings by a network: g2pW (Chen et al. 2022, doi:10.21437/Interspeech.2022-216).

The folder of the network has

  g2pW.onnx                                characters of a sentence, and one of them, to probabilities of its readings
  POLYPHONIC_CHARS.txt                     character and reading in Zhuyin, with a tab between them, one pair a line
  bopomofo_to_pinyin_wo_tune_dict.json     syllables of Zhuyin to pinyin
  vocab.txt                                tokens of its BERT, one a line

It was trained on traditional characters. ONNX Runtime computes it, on one core. Nothing else in the folder is read; of
what it comes with, `config.py` would be code.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from headrace.featurize.files.load_once import load_once
from headrace.featurize.text.languages.frontend import optional_dependencies
from headrace.store.errors import UsageError
from headrace.store.library_settings import quiet_onnxruntime
from headrace.store.storage.regular_files import open_regular

GRAPH, CHARACTERS = "g2pW.onnx", "POLYPHONIC_CHARS.txt"
SYLLABLES, VOCABULARY = "bopomofo_to_pinyin_wo_tune_dict.json", "vocab.txt"
FILES = (GRAPH, CHARACTERS, SYLLABLES, VOCABULARY)
MAX_BYTES = 1 << 24
"""Size of a table."""
MAX_GRAPH_BYTES = (1 << 31) - 1
"""Largest message of protocol buffers."""
MAX_TOKENS = 510
"""Characters that a BERT sees at once, without the tokens around them. Of a longer sentence it sees those around."""
BEGIN, END, UNKNOWN = "[CLS]", "[SEP]", "[UNK]"
NOT_ASKED = frozenset("一不和")
"""Sandhi tells the tones of two of them; of the third the network knows the reading of Taiwan, hàn."""
INPUTS = ("input_ids", "token_type_ids", "attention_mask", "phoneme_mask", "char_ids", "position_ids")


@dataclass(frozen=True, slots=True)
class PolyphoneNetwork:
    """A folder with a network, and what it held when a command began."""

    folder: Path
    digest: str
    """SHA-256 of `FILES`, one after the other."""

    def readings(self, text: str, places: Sequence[int]) -> dict[int, str]:
        """Return the syllables of some characters of a text, by their indices.

        Args:
            text: in simplified characters, up to a mark.
            places: indices of characters that neither a phrase nor a context tells. Those that the network does not
                know are left out, and so are readings that the dictionary of characters does not have.
        Raises:
            UsageError: the folder is not what it was, or does not hold such a network.
        """
        network = _load(self)
        written = network.traditional.convert(text)
        if len(written) != len(text):
            return {}
        asked = [place for place in places if written[place] in network.numbers and text[place] not in NOT_ASKED]
        if not asked:
            return {}
        said = zip(asked, network.syllables(written, asked), strict=True)
        return {place: syllable for place, syllable in said if syllable in _known_readings(text[place])}


def inspect(folder: Path) -> PolyphoneNetwork:
    """Return the network in a folder, checked.

    Raises:
        UsageError: the folder does not hold one, or onnxruntime is not installed.
    """
    if not folder.is_dir():
        raise UsageError(f"--g2pw {folder} is no folder: name the one that holds {', '.join(FILES)}.")
    if missing := [name for name in FILES if not (folder / name).is_file()]:
        raise UsageError(f"--g2pw {folder} holds no {' and no '.join(missing)}: see docs/text.md for what it needs.")
    network = PolyphoneNetwork(folder, _digest(folder))
    _load(network)
    return network


def _digest(folder: Path) -> str:
    sha = hashlib.sha256()
    for name in FILES:
        sha.update(_read(folder / name, MAX_GRAPH_BYTES if name == GRAPH else MAX_BYTES))
    return sha.hexdigest()


def _read(path: Path, most: int) -> bytes:
    try:
        with open_regular(path) as file:
            content = file.read(most + 1)
    except OSError as error:
        raise UsageError(f"--g2pw: {path} cannot be read: {error.strerror}.") from None
    if len(content) > most:
        raise UsageError(f"--g2pw: {path} has more than {most:,} bytes: it is no file of g2pW.")
    return content


class _Network(NamedTuple):
    session: Any
    tokens: Mapping[str, int]
    numbers: Mapping[str, int]
    """The number of each character that it knows the readings of."""
    masks: np.ndarray
    """(C, R) float32: 1 for the readings of a character."""
    readings: Sequence[str]
    """In pinyin with a tone; empty for one that pinyin does not have."""
    traditional: Any

    def syllables(self, written: str, asked: Sequence[int]) -> list[str]:
        """Return the likeliest syllables of some characters of a text, by their indices."""
        first = [max(0, min(place - MAX_TOKENS // 2, len(written) - MAX_TOKENS)) for place in asked]
        ids = np.zeros((len(asked), min(len(written), MAX_TOKENS) + 2), np.int64)
        for row, start in zip(ids, first, strict=True):
            seen = (BEGIN, *written[start : start + MAX_TOKENS].lower(), END)
            row[:] = [self.tokens.get(token, self.tokens[UNKNOWN]) for token in seen]
        numbers = np.array([self.numbers[written[place]] for place in asked])
        positions = np.array([place - start + 1 for place, start in zip(asked, first, strict=True)])
        given = (ids, np.zeros_like(ids), np.ones_like(ids), self.masks[numbers], numbers, positions)
        (probabilities,) = self.session.run(None, dict(zip(INPUTS, given, strict=True)))
        best = np.where(self.masks[numbers] > 0, probabilities, -np.inf).argmax(axis=1)
        return [self.readings[reading] for reading in best]


@load_once
def _load(given: PolyphoneNetwork) -> _Network:
    """Load a network once in a process.

    Raises:
        UsageError: the folder is not what it was, or does not hold such a network; a library is not installed.
    """
    folder = given.folder
    if _digest(folder) != given.digest:
        raise UsageError(f"--g2pw {folder} is not here what it was where the command began: all must see the same.")
    pairs, pinyin, tokens = _tables(folder)
    session = _session(folder / GRAPH)
    characters = sorted({char for char, _ in pairs})
    numbers = {char: number for number, char in enumerate(characters)}
    labels = _labels(pairs, session, folder)
    masks = np.zeros((len(characters), len(labels)), np.float32)
    for char, zhuyin in pairs:
        masks[numbers[char], labels.index(_label(char, zhuyin, labels))] = 1
    sounds = [label.rpartition(" ")[2] for label in labels]
    spelled = [pinyin.get(sound[:-1], "").replace("v", "ü") for sound in sounds]
    readings = [syllable and syllable + sound[-1] for syllable, sound in zip(spelled, sounds, strict=True)]
    with optional_dependencies("zh"):
        import opencc
    return _Network(session, tokens, numbers, masks, readings, opencc.OpenCC("s2tw"))


def _tables(folder: Path) -> tuple[list[tuple[str, str]], dict[str, str], dict[str, int]]:
    """Return pairs of a character and its reading, syllables of Zhuyin in pinyin, and numbers of tokens."""
    name = CHARACTERS
    try:
        rows = [line.split("\t") for line in _read(folder / name, MAX_BYTES).decode().split("\n") if line.strip()]
        pairs = [(char, zhuyin.strip()) for char, zhuyin in rows]
        if not pairs or any(len(char) != 1 or zhuyin[-1:] not in tuple("12345") for char, zhuyin in pairs):
            raise ValueError("a line is no character with a reading and its tone")
        name = SYLLABLES
        pinyin = json.loads(_read(folder / name, MAX_BYTES))
        if not all(isinstance(sound, str) for sound in (*pinyin.keys(), *pinyin.values())):
            raise ValueError("it is no table of syllables")
        name = VOCABULARY
        lines = _read(folder / name, MAX_BYTES).decode().splitlines()
        tokens = {token.strip(): number for number, token in enumerate(lines)}
        if missing := {BEGIN, END, UNKNOWN} - tokens.keys():
            raise ValueError(f"it has no {min(missing)}")
    except (ValueError, AttributeError, RecursionError) as error:
        raise UsageError(f"--g2pw: {folder / name} is no table of g2pW ({str(error)[:120]}).") from None
    return pairs, pinyin, tokens


def _label(char: str, zhuyin: str, labels: Sequence[str]) -> str:
    return f"{char} {zhuyin}" if " " in labels[0] else zhuyin


def _labels(pairs: Sequence[tuple[str, str]], session: Any, folder: Path) -> list[str]:
    """Return what the outputs of a network stand for: readings, or pairs of a character and a reading."""
    width = session.get_outputs()[0].shape[-1]
    choices = sorted({zhuyin for _, zhuyin in pairs}), sorted({f"{char} {zhuyin}" for char, zhuyin in pairs})
    for labels in choices:
        if width == len(labels):
            return labels
    raise UsageError(
        f"--g2pw: {folder / GRAPH} tells {width} readings apart, and {CHARACTERS} has {len(choices[0])} readings of "
        f"{len(choices[1])} pairs: both must be of one network."
    )


def _session(path: Path) -> Any:
    quiet_onnxruntime()
    try:
        import onnxruntime
    except ImportError as error:
        raise UsageError(f"--g2pw needs {error.name}: pip install 'headrace[onnx]'.") from error
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 4
    content = _read(path, MAX_GRAPH_BYTES)
    try:
        session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except Exception as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:160]
        raise UsageError(f"--g2pw: {path} is no graph that ONNX Runtime can compute ({reason}).") from error
    found = sorted(port.name for port in session.get_inputs())
    if found != sorted(INPUTS) or len(session.get_outputs()) != 1:
        raise UsageError(f"--g2pw: {path} takes {', '.join(found)[:160]}, and g2pW {', '.join(INPUTS)}.")
    return session


@load_once
def _known_readings(char: str) -> frozenset[str]:
    """Return the syllables of a character in the dictionary of characters."""
    from headrace.featurize.text.languages.sinitic.pinyin import character_readings

    return frozenset(character_readings(char))
