"""Options of derived features, for the commands that compute them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from headrace.cli.options import COUNT, POSITIVE, option
from headrace.store.errors import UsageError

_FILE = click.Path(path_type=Path, resolve_path=True)
_OPTIONS = {
    "f0_floor": option(
        "--f0-floor", type=POSITIVE, metavar="HZ", show_default="75", help="Lowest F0 that is searched."
    ),
    "f0_ceiling": option(
        "--f0-ceiling", type=POSITIVE, metavar="HZ", show_default="600", help="Highest F0 that is searched."
    ),
    "align_hours": option(
        "--align-hours",
        type=POSITIVE,
        metavar="HOURS",
        show_default="5",
        help="Train the HMM aligner on at most this many hours of speech.",
    ),
    "align_ctc": option(
        "--ctc",
        "align_ctc",
        type=_FILE,
        metavar="DIR",
        help="Align phones with this wav2vec 2.0 model instead of an HMM that is trained on the store.",
    ),
    "content_hubert": option(
        "--hubert",
        "content_hubert",
        type=_FILE,
        metavar="DIR",
        help="Compute content with this HuBERT model instead of as MFCC with their deltas.",
    ),
    "content_width": option(
        "--content-channels",
        "content_width",
        type=COUNT,
        metavar="N",
        show_default="3 for each MFCC",
        help="Channels of content that is computed as MFCC.",
    ),
    "semantic_sovits": option(
        "--sovits",
        "semantic_sovits",
        type=_FILE,
        metavar="FILE",
        help="Quantise content with the codebook of this SoVITS model instead of one that is learned.",
    ),
    "semantic_codes": option(
        "--codes",
        "semantic_codes",
        type=int,
        metavar="N",
        show_default="1024",
        help="Size of the codebook that is learned for semantic tokens.",
    ),
    "bert_bert": option(
        "--bert", "bert_bert", type=_FILE, metavar="DIR", help="Compute features of Chinese texts with this BERT model."
    ),
    "speaker_vector_speaker": option(
        "--speaker-encoder",
        "speaker_vector_speaker",
        type=_FILE,
        metavar="FILE",
        help="Compute speaker vectors with this ERes2NetV2 model instead of Resemblyzer's.",
    ),
    "precision": option(
        "--precision",
        type=click.Choice(["fp32", "fp16", "bf16"]),
        show_default="fp32",
        help="Precision of the models of --ctc, --hubert and --bert.",
    ),
}
"""By the name of the argument: a feature, and the field of it that the option sets."""
_MODELS = {"align": "ctc", "content": "hubert", "bert": "bert"}
"""Features whose precision can be chosen, and the field that names the model which computes them."""


def feature_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of all derived features to a command."""
    for option_ in reversed(_OPTIONS.values()):
        function = option_(function)
    return function


def pop_feature_options(arguments: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Take the options of derived features out of a command's arguments.

    Returns:
        By feature, its fields that have an option; None where the option was not given.
    Raises:
        UsageError: a precision is given, and no model that computes in it.
    """
    precision, fields = arguments.pop("precision"), dict[str, dict[str, Any]]()
    for name in _OPTIONS.keys() & arguments.keys():
        feature, _, field = name.rpartition("_")
        fields.setdefault(feature, {})[field] = arguments.pop(name)
    with_model = [feature for feature, field in _MODELS.items() if fields[feature][field]]
    if precision and not with_model:
        raise UsageError(f"--precision {precision} applies to a model: name one by --ctc, --hubert or --bert.")
    for feature in with_model:
        fields[feature]["precision"] = precision
    return fields
