"""Options of derived features, for the commands that make them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from headrace.store.errors import UsageError

_FILE = click.Path(path_type=Path, resolve_path=True)
_OPTIONS = {
    "f0_floor": click.option("--f0-floor", type=float, metavar="HZ", help="No F0 below it is found; else 75."),
    "f0_ceiling": click.option("--f0-ceiling", type=float, metavar="HZ", help="No F0 above it is found; else 600."),
    "align_hours": click.option(
        "--align-hours", type=float, metavar="H", help="Speech that align learns from, at most; else 5."
    ),
    "align_ctc": click.option(
        "--ctc", "align_ctc", type=_FILE, metavar="DIR", help="Times of phones by this wav2vec 2.0; else learned."
    ),
    "content_hubert": click.option(
        "--hubert", "content_hubert", type=_FILE, metavar="DIR", help="Content by this HuBERT; else MFCC and deltas."
    ),
    "content_width": click.option(
        "--content-width", type=click.IntRange(1), metavar="N", help="Of content by MFCC; else 3 channels for each."
    ),
    "semantic_sovits": click.option(
        "--sovits", "semantic_sovits", type=_FILE, metavar="FILE", help="Codes by this SoVITS; else learned clusters."
    ),
    "semantic_codes": click.option(
        "--codes", "semantic_codes", type=int, metavar="N", help="Clusters to be learned; else 1024."
    ),
    "bert_bert": click.option("--bert", "bert_bert", type=_FILE, metavar="DIR", help="BERT for Chinese texts."),
    "speaker_vector_speaker": click.option(
        "--speaker",
        "speaker_vector_speaker",
        type=_FILE,
        metavar="FILE",
        help="ERes2NetV2; else Resemblyzer's network.",
    ),
    "precision": click.option(
        "--precision", type=click.Choice(["fp32", "fp16", "bf16"]), help="Of these networks; else fp32."
    ),
}
"""By the name of the argument: a feature, and what its user chooses of it."""
_NETWORKS = {"align": "ctc", "content": "hubert", "bert": "bert"}
"""Features by a network whose precision can be chosen, and the choice that names it."""


def options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Decorate a command that takes them all."""
    for option in reversed(_OPTIONS.values()):
        function = option(function)
    return function


def values(arguments: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """By feature, what its user chose; taken out of a command's arguments.

    Raises:
        UsageError: a precision, and no network that computes in it.
    """
    precision, chosen = arguments.pop("precision"), dict[str, dict[str, Any]]()
    for name in _OPTIONS.keys() & arguments.keys():
        feature, _, key = name.rpartition("_")
        chosen.setdefault(feature, {})[key] = arguments.pop(name)
    networks = [feature for feature, key in _NETWORKS.items() if chosen[feature][key]]
    if precision and not networks:
        raise UsageError(f"--precision {precision} is of networks: name one by --ctc, --hubert or --bert.")
    for feature in networks:
        chosen[feature]["precision"] = precision
    return chosen
