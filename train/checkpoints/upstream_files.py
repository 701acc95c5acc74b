"""Read and write checkpoint files of GPT-SoVITS itself.

They are archives of torch. Upstream tells versions apart by two bytes that replace the first two of the archive, or by
the size of the file. `headrace.featurize.files.torch_archive` reads them as data.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headrace.featurize.files import torch_archive
from headrace.store.errors import RunError
from headrace.store.storage import read_file
from headrace.store.storage.output_files import output_file
from headrace.train.checkpoints.origin import UNKNOWN, Origin

VERSION_HEADERS = {b"00": "v1", b"01": "v2", b"02": "v3", b"03": "v3", b"04": "v4", b"05": "v2Pro", b"06": "v2ProPlus"}
"""The first two bytes of a file to its version, where they are not those of an archive."""
ARCHIVE = torch_archive.MAGIC
V2_BYTES = 82_978 * 1024
"""A SoVITS file without such a header is of v1 if it is smaller than this, and else of v2."""
ROOT = "headrace-weights.1"
"""Name of the folder within an archive. Each of about 680 records repeats it, so its length decides on which side of
V2_BYTES a file lies: the 18 characters of upstream's own leave 28 KB, and 4 would turn a v2 into a v1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamCheckpoint:
    """The content of a file."""

    weights: dict[str, Tensor]
    """On the CPU, in the dtype of the file, named as in our modules."""
    config: dict[str, Any]
    """Sections as dicts; empty if the file has none."""
    info: str
    """Upstream's note on the training, such as 8epoch_1234iteration."""
    version: str
    """The version that the first two bytes name; empty if they name none."""
    codebook: str = ""
    """Digest of the codebook of the semantic tokens that it was trained on; empty if that is not recorded."""
    origin: Origin = UNKNOWN
    """What it was trained on; empty if that is not recorded."""


def read(path: Path) -> UpstreamCheckpoint:
    """Read any of upstream's files of weights: pretrained, exported, or saved to resume from.

    Raises:
        RunError: it cannot be read, is damaged, is another file, or would run code.
    """
    return parse(*read_content(path), path)


def read_content(path: Path) -> tuple[Any, bytes]:
    """Return what an archive of torch holds, with or without a version in its head, and its first two bytes.

    Raises:
        RunError: as `read`.
    """
    try:
        data = read_file(path)
    except OSError as error:
        raise RunError(f"Cannot read {path}: {error.strerror}.") from error
    header = data[:2]
    if header != ARCHIVE and header not in VERSION_HEADERS:
        raise RunError(f"{path} is not a checkpoint of GPT-SoVITS: it begins with {header!r}.")
    try:
        return torch_archive.load(ARCHIVE + data[2:], classes=torch_archive.GPT_SOVITS), header
    except torch_archive.UnsafeError as error:
        raise RunError(f"{path} is refused: {error}, and weights need none of that.") from error
    except torch_archive.CorruptedError as error:
        raise RunError(f"{path} is damaged, or not a checkpoint: {error}.") from error


def parse(content: Any, header: bytes, path: Path) -> UpstreamCheckpoint:
    """Return the weights in what `read_content` has read. Raises RunError where there are none."""
    weights = content.get("weight", content.get("model")) if isinstance(content, dict) else None
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise RunError(f"{path} is not a checkpoint of GPT-SoVITS: it holds no weights under `weight` or `model`.")
    return UpstreamCheckpoint(
        weights={str(name).removeprefix("model."): value for name, value in weights.items()},
        config=_plain(content.get("config", {})),
        info=str(content.get("info", "")),
        version=VERSION_HEADERS.get(header, ""),
        codebook=str(content.get("codebook", ""))[:64],
        origin=Origin.from_json(content.get("origin")),
    )


def describe(weights: Mapping[str, Tensor]) -> str:
    """Describe in words which network weights belong to, by their names and shapes."""
    if "ar_predict_layer.weight" in weights:
        symbols = _rows(weights, "ar_text_embedding.word_embeddings.weight")
        return f"a text-to-semantic decoder of {'v1' if symbols == 512 else 'v2'}"
    if "discriminators.0.conv_post.weight_v" in weights:
        count = len({name.split(".")[1] for name in weights if "." in name})
        return f"{count} discriminators, as {'v1 and v2 have' if count == 6 else 'v2Pro has'}"
    if "enc_p.text_embedding.weight" not in weights:
        return "another network"
    if "sv_emb.weight" in weights:
        return f"a SoVITS generator of {'v2ProPlus' if _rows(weights, 'dec.conv_pre.bias') == 768 else 'v2Pro'}"
    return f"a SoVITS generator of {'v1' if _rows(weights, 'enc_p.text_embedding.weight') == 322 else 'v2'}"


def _rows(weights: Mapping[str, Tensor], name: str) -> int:
    """Return the length of a tensor; 0 where it is missing or has none."""
    return weights[name].shape[0] if name in weights and weights[name].ndim else 0


def write(
    path: Path,
    weights: Mapping[str, Tensor],
    config: dict[str, Any],
    info: str,
    header: bytes = ARCHIVE,
    codebook: str = "",
    origin: Origin = UNKNOWN,
) -> None:
    """Write weights in half precision as upstream does, completely or not at all.

    Args:
        config: JSON types only; sections as dicts.
        header: the first two bytes.
        codebook: digest of the codebook of the semantic tokens that they were trained on, which upstream does not read.
        origin: what they were trained on, likewise.
    Raises:
        UsageError: `path` is a folder.
        StoreError: another command is writing it, or it cannot be written.
        RunError: torch cannot write it.
    """
    half = {name: value.detach().half().cpu() for name, value in weights.items()}
    with output_file(path, f"{ROOT}.pth", parents=True) as draft:
        try:
            of_codes = {"codebook": codebook} if codebook else {}
            recorded = of_codes | ({"origin": origin.to_json()} if origin.to_json() else {})
            torch.save({"weight": half, "config": config, "info": info, **recorded}, draft)
        except RuntimeError as error:  # of torch's archive writer, which also hides the reason of a full disk
            raise RunError(f"Cannot write {path}: {str(error).splitlines()[0]}") from error
        with draft.open("r+b") as file:
            file.write(header)


def _plain(config: Any) -> Any:
    """Return a config with its sections as dicts."""
    if isinstance(config, torch_archive.HParams):
        config = vars(config)
    return {str(key): _plain(value) for key, value in config.items()} if isinstance(config, Mapping) else config
