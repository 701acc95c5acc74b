"""Read and write checkpoint files of GPT-SoVITS itself.

They are archives of torch. Upstream tells versions apart by two bytes that replace the first two of the archive, or by
the size of the file. `headrace.featurize.files.torch_archive` reads them as data.
"""

from __future__ import annotations

import hashlib
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
UNREAD_HEADERS = {b"02": "v3", b"03": "v3, as LoRA", b"04": "v4, as LoRA"}
UNREAD_DIGESTS = {"43797be674a37c1c83ee81081941ed0f": "v3", "4f26b9476d0c5033e04162c486074374": "v4"}
"""MD5 of the first 8,192 bytes of the published files, by which upstream knows them too."""
DIGESTED_BYTES = 8192
UNREAD = "v1, v2, v2Pro and v2ProPlus are read here, and v3 and v4 are other networks (flow matching)"
FLOW_MATCHING = "cfm."
"""Prefix of the weights that only v3 and v4 have. Upstream tells a whole v3 by 700 MiB or more."""
ARCHIVE = torch_archive.MAGIC
V2_BYTES = 82_978 * 1024
"""A SoVITS file without such a header is of v1 if it is smaller than this, and else of v2."""
CODEBOOK_COUNTS, CODEBOOK_SUMS = "_codebook.cluster_size", "_codebook.embed_avg"
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
    refuse_unread_versions(path, data)
    if header != ARCHIVE and header not in VERSION_HEADERS:
        raise RunError(f"{path} is not a checkpoint of GPT-SoVITS: it begins with {header!r}.")
    try:
        return torch_archive.load(ARCHIVE + data[2:], classes=torch_archive.GPT_SOVITS), header
    except torch_archive.UnsafeError as error:
        raise RunError(f"{path} is refused: {error}, and weights need none of that.") from error
    except torch_archive.CorruptedError as error:
        raise RunError(f"{path} is damaged, or not a checkpoint: {error}.") from error


def refuse_unread_versions(path: Path, data: bytes) -> None:
    """Raise RunError if a file is of v3 or v4, by its first bytes: published ones have a known digest, LoRA a head."""
    version = UNREAD_DIGESTS.get(hashlib.md5(data[:DIGESTED_BYTES], usedforsecurity=False).hexdigest(), "")
    if not version and (header := data[:2]) in UNREAD_HEADERS:
        version = UNREAD_HEADERS[header]
    if version:
        size = f"{len(data) / 2**20:.0f} MiB"
        raise RunError(f"{path} ({size}) holds a SoVITS generator of {version}: {UNREAD}.")


def parse(content: Any, header: bytes, path: Path) -> UpstreamCheckpoint:
    """Return the weights in what `read_content` has read. Raises RunError where there are none."""
    weights = content.get("weight", content.get("model")) if isinstance(content, dict) else None
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise RunError(f"{path} is not a checkpoint of GPT-SoVITS: it holds no weights under `weight` or `model`.")
    if any(str(name).startswith(FLOW_MATCHING) for name in weights):
        lora = ", as LoRA" if any(".lora_A." in str(name) for name in weights) else ""
        raise RunError(f"{path} holds a SoVITS generator of v3 or v4{lora}: {UNREAD}.")
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
    half = _in_half_precision(weights, path)
    with output_file(path, f"{ROOT}.pth", parents=True) as draft:
        try:
            of_codes = {"codebook": codebook} if codebook else {}
            recorded = of_codes | ({"origin": origin.to_json()} if origin.to_json() else {})
            torch.save({"weight": half, "config": config, "info": info, **recorded}, draft)
        except RuntimeError as error:  # of torch's archive writer, which also hides the reason of a full disk
            raise RunError(f"Cannot write {path}: {str(error).splitlines()[0]}") from error
        with draft.open("r+b") as file:
            file.write(header)


def _in_half_precision(weights: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Return weights in half precision. Raises RunError where one of them is not finite in it.

    The counts of a codebook and its sums are statistics that only training of a codebook reads, and counts of a large
    corpus do not fit: both are scaled down by one factor, and their quotient, which is the codebook, stays.
    """
    weights = {name: value.detach().cpu() for name, value in weights.items()}
    for name in [name for name in weights if name.endswith(CODEBOOK_COUNTS)]:
        pair = [name, name.removesuffix(CODEBOOK_COUNTS) + CODEBOOK_SUMS]
        found = [weights[one].float() for one in pair if one in weights]
        factor = max(float(value.abs().max()) for value in found) / torch.finfo(torch.half).max
        if 1 < factor < float("inf"):
            weights |= {one: value / (1.01 * factor) for one, value in zip(pair, found, strict=False)}
    half = {name: value.half() for name, value in weights.items()}
    for name, value in half.items():
        if not value.isfinite().all():
            worst = float(weights[name].float()[~value.isfinite()].flatten()[0])
            raise RunError(
                f"{path} is not written: {name} holds {worst:g}, and half precision holds numbers up to "
                f"{torch.finfo(torch.half).max:g}: export another checkpoint by --at."
            )
    return half


def _plain(config: Any) -> Any:
    """Return a config with its sections as dicts."""
    if isinstance(config, torch_archive.HParams):
        config = vars(config)
    return {str(key): _plain(value) for key, value in config.items()} if isinstance(config, Mapping) else config
