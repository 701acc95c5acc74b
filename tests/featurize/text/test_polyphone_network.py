"""Chinese characters of several readings by a network: a miniature of g2pW, made here."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import soundfile

from headrace import store
from headrace.cli.featurize import main as featurize
from headrace.featurize.text import g2p, reading_options
from headrace.featurize.text.languages.sinitic import polyphone_network
from headrace.featurize.text.languages.sinitic.polyphone_network import PolyphoneNetwork
from headrace.featurize.text.reading_options import ReadingOptions
from headrace.featurize.text.symbols import SYMBOLS
from headrace.store.errors import UsageError
from tests.helpers.commands import build, call
from tests.helpers.corpora import buzz

onnx = pytest.importorskip("onnx")
READINGS = "傳\tㄔㄨㄢ2\n傳\tㄓㄨㄢ4\n載\tㄗㄞ3\n載\tㄗㄞ4\n書\tㄕㄨ1\n書\tㄍㄨ1\n"
TOKENS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "傳", "書", "們", "載", "我"]


def write_network(folder: Path, labels: int = 6) -> Path:
    """Write a network that takes the second reading of a character if 書 is in its text, else the first one.

    It does so only where the token at `position_ids` is a character with a number, so that a wrong place shows.
    """
    from onnx import TensorProto, helper, numpy_helper

    folder.mkdir(parents=True, exist_ok=True)
    sounds = sorted({line.split("\t")[1] for line in READINGS.splitlines()})
    second = np.array([[1 if sound in ("ㄓㄨㄢ4", "ㄗㄞ4", "ㄍㄨ1") else -1 for sound in sounds]], np.float32)
    constants = {
        "book": np.array(TOKENS.index("書"), np.int64),
        "known": np.array([TOKENS.index(char) for char in "傳書載"], np.int64),
        "second": np.resize(second, (1, labels)),
        "one": np.array([1], np.int64),
        "half": np.array(0.5, np.float32),
    }
    nodes = [
        helper.make_node("Equal", ["input_ids", "book"], ["is_book"]),
        helper.make_node("Cast", ["is_book"], ["book_f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["book_f", "one"], ["any_book"], keepdims=1),
        helper.make_node("Unsqueeze", ["position_ids", "one"], ["places"]),
        helper.make_node("GatherElements", ["input_ids", "places"], ["asked"], axis=1),
        helper.make_node("Equal", ["asked", "known"], ["is_known"]),
        helper.make_node("Cast", ["is_known"], ["known_f"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMax", ["known_f", "one"], ["any_known"], keepdims=1),
        helper.make_node("Mul", ["any_book", "any_known"], ["takes_second"]),
        helper.make_node("Sub", ["takes_second", "half"], ["sign"]),
        helper.make_node("Mul", ["sign", "second"], ["raised"]),
        helper.make_node("Add", ["raised", "phoneme_mask"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["probs"], axis=1),
    ]
    kinds = {"phoneme_mask": TensorProto.FLOAT}
    shapes = {"phoneme_mask": ["N", labels], "char_ids": ["N"], "position_ids": ["N"]}
    inputs = [
        helper.make_tensor_value_info(name, kinds.get(name, TensorProto.INT64), shapes.get(name, ["N", "L"]))
        for name in polyphone_network.INPUTS
    ]
    outputs = [helper.make_tensor_value_info("probs", TensorProto.FLOAT, ["N", labels])]
    initializers = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph(nodes, "g2pw", inputs, outputs, initializers)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    (folder / polyphone_network.GRAPH).write_bytes(model.SerializeToString())
    (folder / polyphone_network.CHARACTERS).write_text(READINGS, encoding="utf-8")
    table = {"ㄔㄨㄢ": "chuan", "ㄓㄨㄢ": "zhuan", "ㄗㄞ": "zai", "ㄕㄨ": "shu", "ㄍㄨ": "gu"}
    (folder / polyphone_network.SYLLABLES).write_text(json.dumps(table), encoding="utf-8")
    (folder / polyphone_network.VOCABULARY).write_text("\n".join(TOKENS) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_network(tmp_path_factory.mktemp("g2pw") / "G2PWModel")


def say(text: str, folder: Path | None, language: str = "zh") -> str:
    options = ReadingOptions(g2pw=polyphone_network.inspect(folder)) if folder else None
    return " ".join(g2p.phonemise(text, language, options).phones)


@pytest.mark.parametrize(
    ("text", "without", "with_it"),
    [
        ("我们传。", "w o3 m en5 ch uan2 .", "w o3 m en5 ch uan2 ."),
        ("书里有传。", "sh u1 l i2 y ou3 ch uan2 .", "sh u1 l i2 y ou3 zh uan4 ."),
        ("书里有传说。", "sh u1 l i2 y ou3 ch uan2 sh uo1 .", "sh u1 l i2 y ou3 ch uan2 sh uo1 ."),
        ("书，传。", "sh u1 , ch uan2 .", "sh u1 , ch uan2 ."),
    ],
)
def test_the_network_reads_what_no_phrase_tells(text: str, without: str, with_it: str, folder: Path) -> None:
    """A phrase comes first, a mark ends what is seen, and a reading that no dictionary has (書 gu1) is not taken."""
    assert say(text, None) == without
    assert say(text, folder) == with_it


def test_chinese_within_another_language_is_read_by_it_too(folder: Path) -> None:
    marked = 'Read <lang xml:lang="zh">书里有传</lang>'
    assert say(marked, folder, "en").endswith("y ou3 zh uan4") and say(marked, None, "en").endswith("y ou3 ch uan2")
    assert "zh uan4" in say("书里有传 오늘", folder, "ko") and "zh uan4" not in say("书里有传 오늘", None, "ko")


def test_a_long_sentence_is_seen_around_the_character(folder: Path) -> None:
    network = polyphone_network.inspect(folder)
    far = "我" * 600
    assert network.readings("书" + far + "传", [601]) == {601: "chuan2"}
    assert network.readings("书" + far + "传" + far, [601]) == {601: "chuan2"}
    assert network.readings(far + "书" + "我" * 200 + "传", [801]) == {801: "zhuan4"}
    assert network.readings("传" + "我" * 200 + "书" + far, [0]) == {0: "zhuan4"}


def test_what_is_not_asked_is_not_answered(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = polyphone_network.inspect(folder)
    assert network.readings("书我传载", [1, 2]) == {2: "zhuan4"}
    assert network.readings("书我", [0, 1]) == {}
    monkeypatch.setattr(polyphone_network, "NOT_ASKED", frozenset("传"))
    assert network.readings("书传载", [1, 2]) == {2: "zai4"}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (polyphone_network.GRAPH, None, "holds no g2pW.onnx"),
        (polyphone_network.VOCABULARY, None, "holds no vocab.txt"),
        (polyphone_network.GRAPH, b"not a graph", "is no graph that ONNX Runtime can compute"),
        (polyphone_network.CHARACTERS, b"\xe5\x82\xb3\n", "POLYPHONIC_CHARS.txt is no table of g2pW"),
        (polyphone_network.CHARACTERS, "傳\tㄔㄨㄢ\n".encode(), "no character with a reading and its tone"),
        (
            polyphone_network.CHARACTERS,
            "傳\tㄔㄨㄢ2\n".encode(),
            "tells 6 readings apart, and POLYPHONIC_CHARS.txt has 1",
        ),
        (polyphone_network.SYLLABLES, b'{"a": 1}', "no table of syllables"),
        (polyphone_network.SYLLABLES, b"{", "is no table of g2pW"),
        (polyphone_network.VOCABULARY, b"[CLS]\n[SEP]\n", "has no [UNK]"),
    ],
)
def test_a_folder_of_something_else_is_refused_in_a_line(
    name: str, content: bytes | None, message: str, folder: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    (other / name).unlink()
    if content is not None:
        (other / name).write_bytes(content)
    with pytest.raises(UsageError) as caught:
        polyphone_network.inspect(other)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_another_graph_is_refused_by_what_it_takes(folder: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    model = onnx.load(other / polyphone_network.GRAPH)
    del model.graph.input[4]
    (other / polyphone_network.GRAPH).write_bytes(model.SerializeToString())
    with pytest.raises(UsageError, match="takes attention_mask, input_ids, phoneme_mask, position_ids, token_type_ids"):
        polyphone_network.inspect(other)
    with pytest.raises(UsageError, match="is no folder"):
        polyphone_network.inspect(tmp_path / "none")


def test_a_folder_that_changes_under_a_command_is_refused(folder: Path) -> None:
    with pytest.raises(UsageError, match="is not here what it was where the command began"):
        PolyphoneNetwork(folder, "0" * 64).readings("书传", [1])


def test_labels_may_be_pairs_of_a_character_and_a_reading(tmp_path: Path) -> None:
    """As of networks that were trained so: here two characters share a reading."""
    pairs = READINGS + "專\tㄓㄨㄢ4\n"
    folder = write_network(tmp_path / "pairs", labels=7)
    (folder / polyphone_network.CHARACTERS).write_text(pairs, encoding="utf-8")
    network = polyphone_network._load(polyphone_network.inspect(folder))
    assert sorted(network.readings) == ["chuan2", "gu1", "shu1", "zai3", "zai4", "zhuan4", "zhuan4"]
    assert network.masks.sum() == 7 and network.masks[network.numbers["傳"]].sum() == 2


def test_a_build_keeps_the_digest_and_needs_the_network_again(folder: Path, tmp_path: Path) -> None:
    corpus, root, plain = tmp_path / "corpus", tmp_path / "STORE", tmp_path / "PLAIN"
    corpus.mkdir()
    soundfile.write(corpus / "a.wav", buzz(0.6, 32_000, 1), 32_000)
    (corpus / "all.list").write_text("a.wav|a|zh|书里有传。\n", encoding="utf-8")
    only = ("--features", "phones")
    assert call(featurize, "scan", corpus, *only, "--g2pw", folder).exit_code == 0
    assert build(corpus, root, *only, "--g2pw", folder).exit_code == 0
    opened = store.open(root)
    said = " ".join(SYMBOLS[number] for number in opened.read("phones", 0).tolist())
    assert said == "sh u1 l i2 y ou3 zh uan4 ."
    network = polyphone_network.inspect(folder)
    assert opened.features["phones"].recipe["g2pw"] == network.digest
    assert reading_options.of_specs(opened.features) == reading_options.DEFAULT
    assert build(corpus, root, *only, "--g2pw", folder).exit_code == 0, "it goes on with the same network"
    refused = build(corpus, root, *only)
    assert refused.exit_code == 1 and "give its folder by --g2pw" in refused.stderr
    assert build(corpus, plain, *only).exit_code == 0
    assert store.open(plain).features["phones"].fingerprint != opened.features["phones"].fingerprint
    refused = build(corpus, plain, *only, "--g2pw", folder)
    assert refused.exit_code == 1 and "were read by no network: leave --g2pw out" in refused.stderr
    refused = call(featurize, "scan", corpus, "--g2pw", tmp_path / "none")
    assert refused.exit_code == 2 and "is no folder" in refused.stderr
