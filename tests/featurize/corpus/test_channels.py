"""One channel of a recording may be an utterance: a corpus of telephone calls has a speaker on each."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from headrace.featurize.audio.decode import decode, waveform
from headrace.featurize.corpus import scanner
from headrace.featurize.corpus.formats.table_files import parse_columns
from headrace.store.errors import Rejected
from headrace.store.schema import Reject, Utterance
from tests.helpers.corpus_formats import RATE, cut, write

WAVES = np.random.default_rng(0).integers(-9000, 9000, (1600, 2)).astype(np.int16)


def scan(path: Path, **options: object) -> tuple[dict[str, Utterance], dict[str, str]]:
    found = list(scanner.scan(path, **options))  # type: ignore[arg-type]
    rejects = {item.id: item.reason for item in found if isinstance(item, Reject)}
    return {item.id: item for item in found if isinstance(item, Utterance)}, rejects


@pytest.fixture
def call(tmp_path: Path) -> Path:
    soundfile.write(tmp_path / "call.flac", WAVES, RATE)
    return tmp_path / "call.flac"


def check(utterances: dict[str, Utterance], root: Path, spans: dict[str, tuple[int, slice]]) -> None:
    """Each utterance sounds as this part of this channel."""
    assert utterances.keys() == spans.keys()
    for id, (channel, span) in spans.items():
        decoded = decode(root, utterances[id], RATE, "none")
        assert (decoded.wave == WAVES[span, channel]).all() and decoded.dead_channels == 0


def test_of_a_table(call: Path) -> None:
    write(call.parent / "t.csv", "path,text,side,start,end\ncall.flac,Hello,0,,\ncall.flac,Hi,1,0.02,0.05\n")
    columns = parse_columns("channel=side")
    utterances, rejects = scan(call.parent / "t.csv", columns=columns)
    assert not rejects
    check(
        utterances,
        call.parent,
        {"call.flac#channel0": (0, slice(None)), "call.flac#320-800#channel1": (1, slice(320, 800))},
    )
    write(call.parent / "t.csv", "path,text,side\ncall.flac,Hello,left\ncall.flac,Both,\n")
    utterances, rejects = scan(call.parent / "t.csv", columns=columns)
    assert [*utterances] == ["call.flac"] and "its channel is 'left'" in rejects["t.csv:2"]


def test_a_column_that_is_called_channel_is_not_meant(call: Path) -> None:
    write(call.parent / "t.csv", "path,text,channel\ncall.flac,Hello,Headlines\n")
    assert [*scan(call.parent / "t.csv")[0]] == ["call.flac"]


def test_of_a_command_of_kaldi(call: Path) -> None:
    commands = {
        "a": "sph2pipe -f wav -p -c 2 call.flac |",
        "b": "sox call.flac -t wav - remix 1 |",
        "c": "ffmpeg -i call.flac -map_channel 0.0.1 -f wav - |",
        "d": "sox call.flac -t wav - remix 1,2 |",
        "e": "sox call.flac -t wav - remix 0 |",
    }
    write(call.parent / "wav.scp", "".join(f"{name} {command}\n" for name, command in commands.items()))
    write(call.parent / "text", "u Hello\nv Hello\nw Hello\nx No\ny No\n")
    write(call.parent / "segments", "u a 0 0.02\nv b 0 0.02\nw c 0.02 0.05\nx d 0 0.1\ny e 0 0.1\n")
    utterances, rejects = scan(call.parent)
    first, second = slice(0, 320), slice(320, 800)
    check(
        utterances,
        call.parent,
        {
            "call.flac#0-320#channel1": (1, first),
            "call.flac#0-320#channel0": (0, first),
            "call.flac#320-800#channel1": (1, second),
        },
    )
    assert len([reason for reason in rejects.values() if "are not run" in reason]) == 2


@pytest.mark.parametrize(("channels", "channel", "heard"), [([0, 1], 1, 1), ([1, 2], 1, 0), ([1, 2], 2, 1)])
def test_of_a_cut_of_lhotse(call: Path, channels: list[int], channel: int, heard: int) -> None:
    whole = cut(call, "Hello", channel=channel)
    whole["recording"]["sources"][0]["channels"] = channels
    write(call.parent / "cuts.jsonl", json.dumps(whole) + "\n")
    check(scan(call.parent / "cuts.jsonl")[0], call.parent, {f"call.flac#channel{heard}": (heard, slice(None))})


def test_a_channel_that_the_recording_does_not_have(call: Path) -> None:
    write(call.parent / "t.csv", "path,text,side\ncall.flac,Hello,2\n")
    (utterance,) = scan(call.parent / "t.csv", columns=parse_columns("channel=side"))[0].values()
    with pytest.raises(Rejected, match="has 2 channels, numbered from 0: there is no channel 2"):
        waveform(call.parent, utterance, RATE, "none")
