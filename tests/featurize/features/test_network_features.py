"""Features by networks: content, semantic, bert, speaker_vector. What the network itself makes, whatever the batch."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
import torch
from torch import nn

from headrace import store
from headrace.featurize.exchange import gpt_sovits_dir
from headrace.featurize.features import (
    content,
    eres2net,
    huggingface,
    network_batches,
    semantic_tokens,
    speaker_vector,
    weight_files,
)
from headrace.featurize.features.bert import Bert
from headrace.featurize.features.content import (
    HubertContent,
    MfccContent,
    last_hidden_states,
    match_frame_count,
)
from headrace.featurize.features.derived import Derived, Part
from headrace.featurize.features.hubert_input import gain, resample
from headrace.featurize.features.network_batches import EXACT, FEW, BatchShapes, batch_by_length
from headrace.featurize.features.semantic_tokens import SovitsTokens
from headrace.featurize.features.speaker_vector import ERes2NetV2, Resemblyzer
from headrace.featurize.files.load_once import load_once
from headrace.featurize.pipeline.feature_rows import compute_rows
from headrace.featurize.pipeline.presets import PRESETS, feature_specs
from headrace.featurize.spectral.dsp import mfcc_content
from headrace.featurize.spectral.float32 import allow_tf32, tf32_is_allowed
from headrace.featurize.text.g2p import phonemise
from headrace.featurize.text.languages.frontend import PHONE_WORD_RECIPE
from headrace.store.errors import Rejected, StoreError, UsageError
from headrace.store.integrity.verify import verify
from headrace.store.schema import FeatureSpec
from headrace.train.models.sovits import SynthesizerTrn
from headrace.train.models.sovits_config import tiny
from tests.helpers import networks
from tests.helpers.commands import add, build, part_bytes
from tests.helpers.corpora import buzz, make_tree

SPECS = {spec.name: spec for spec in feature_specs(PRESETS["gpt-sovits-v2"], ("wave", "mfcc", "phones"))}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("hubert")
    networks.hubert(made)
    return made


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of three parts."""
    made = tmp_path_factory.mktemp("plain")
    words = ("--features", "wave,mfcc,phones", "--part-hours", 0.001)
    assert build(make_tree(made / "corpus", 9), made / "STORE", *words).exit_code == 0
    return made / "STORE"


@pytest.fixture
def root(plain: Path, tmp_path: Path) -> Path:
    return shutil.copytree(plain, tmp_path / "STORE")


def speech(frames: int, seed: int = 0) -> np.ndarray:
    """(frames, 640) int16: noise whose colour and level change."""
    random = np.random.default_rng(seed)
    noise = np.convolve(random.standard_normal(frames * 640 + 7), random.standard_normal(8), "valid")
    return (noise * np.linspace(500, 3000, len(noise))).clip(-32768, 32767).astype(np.int16).reshape(frames, 640)


def rows_of(feature: Derived, arrays: Mapping[str, Sequence[np.ndarray]], **more: Any) -> tuple[list[np.ndarray], Part]:
    """What a feature makes of a part that holds these."""
    there = {**SPECS, **more.pop("specs", {})}
    part = Part({**there, feature.name: feature.spec(there)}, arrays.__getitem__, **more)
    return list(feature.rows(part)), part


def loaded(path: Path) -> Any:
    digest = huggingface.inspect_folder(path, "hubert", "").recipe["weights"]
    return huggingface.load_network("HubertModel", path, "hubert", "", digest, "cpu", "fp32")


def changed(**changes: Any) -> Any:
    return type(networks.HUBERT)(**{**networks.HUBERT.to_dict(), **changes})


@pytest.mark.parametrize("shapes", [EXACT, FEW])
@pytest.mark.parametrize("norm, stable", [("group", False), ("layer", True)])
def test_hubert_in_a_batch_is_transformers_own_forward_alone(
    tmp_path: Path, norm: str, stable: bool, shapes: BatchShapes
) -> None:
    networks.hubert(tmp_path, changed(feat_extract_norm=norm, do_stable_layer_norm=stable, conv_bias=stable))
    network = loaded(tmp_path)
    waves = [resample(speech(frames, frames).reshape(-1) * np.float32(0.03), 32_000) for frames in (9, 30, 31, 75)]
    for members in ([0, 1, 2, 3], [1, 2], [3, 0], [2]):
        made_BLW, lengths = last_hidden_states(network, [waves[n] for n in members], shapes)
        assert made_BLW.isfinite().all() and made_BLW.shape[:2] == shapes.padded(len(members), max(lengths))
        for rows, length, n in zip(made_BLW, lengths, members, strict=False):
            with torch.inference_mode():
                alone = network(torch.from_numpy(waves[n])[None]).last_hidden_state[0]
            assert length == len(alone) and (rows[:length] - alone).abs().max() < 1e-4


def test_content_is_heard_as_upstream_prepares_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """At a magnitude of 1145.14, by soxr to 16 kHz, not normalised; the frame that is missing repeats the last."""
    network, waves = loaded(folder), [speech(frames, frames) for frames in (1, 2, 17, 18, 18, 40, 64)]
    for budget in (1, 100, 10_000):
        monkeypatch.setattr(HubertContent, "BATCH", budget)
        made, _ = rows_of(HubertContent(hubert=folder), {"wave": waves})
        for wave, rows in zip(waves[1:], made[1:], strict=True):
            heard = soxr.resample(wave.reshape(-1) * np.float32(1145.14 / 32768), 32_000, 16_000, quality="HQ")
            with torch.inference_mode():
                alone = network(torch.from_numpy(heard)[None]).last_hidden_state[0].half().numpy()
            assert rows.shape == (len(wave), 768) and np.array_equal(rows[-1], rows[-2])
            assert np.allclose(rows[:-1], alone, atol=1e-4, rtol=1e-3)
        assert made[0].shape == (1, 768)


def test_levels_of_stores_come_to_one_input() -> None:
    """A store of level `gpt-sovits` holds what a store of level `none` is brought to here."""
    sound = (speech(40) / 32768 * 0.3).astype(np.float32)
    mixed = np.trunc(sound / abs(sound).max() * (0.95 * 0.5 * 32768) + 0.5 * 32768 * sound).astype(np.int16)
    plain = np.round(sound * 32768).astype(np.int16)
    one = mixed * gain(mixed, "gpt-sovits")
    other = plain * gain(plain, "none")
    assert abs(one - other).max() < 0.2 and abs(one).max() > 500  # int16 rounds, at a magnitude of 1145
    assert gain(np.zeros(4, np.int16), "none") > 0


def test_upstreams_input_level(golden: Path) -> None:
    features = np.load(golden / "features_audio.npz")
    wave = features["norm_wav32_int16"]
    fed = wave * gain(wave, "gpt-sovits")
    assert abs(fed - features["norm_hubert_in_32k"]).max() < 0.04  # of 1100: what int16 cut off
    assert abs(resample(fed, 32_000) - features["norm_hubert_in_16k"]).max() < 0.1


def test_upstreams_lengths(golden: Path, folder: Path) -> None:
    network = loaded(folder)
    for row in json.loads((golden / "alignment_table.json").read_text())["rows"]:
        heard = resample(np.zeros(row["n32"], np.float32), 32_000)
        assert len(heard) == row["n16"]
        frames = int(network._get_feat_extract_output_lengths(len(heard)))
        assert frames == row["hubert_T"] and row["n32"] // 640 == row["spec_T"]
        rows = match_frame_count(np.zeros((frames, 1)), row["spec_T"])
        assert len(rows) == row["ssl_T_after_pad"] and len(rows) - frames == row["pad"]
        codes = -(-len(rows) // 2)
        assert codes - len(rows) % 2 == row["tokens_from_padded_25hz"], "upstream leaves the last of an odd number out"


def test_an_utterance_of_which_hubert_makes_too_few_frames_costs_no_other(folder: Path) -> None:
    with pytest.raises(Rejected, match="HuBERT made 3 frames of 5"):
        match_frame_count(np.zeros((3, 1)), 5)
    waves = [speech(20), speech(21), speech(22)]
    feature = HubertContent(hubert=folder)
    specs = {**SPECS, "content": feature.spec(SPECS)}

    def part_of(numbers: Sequence[int] | None) -> Part:
        held = range(3) if numbers is None else numbers
        strings: dict[str, Any] = {"id": ["abc"[n] for n in held], "frames": [len(waves[n]) for n in held]}
        return Part(specs, lambda _: [waves[n] for n in held], strings=strings.__getitem__)

    with pytest.MonkeyPatch.context() as patch:
        made = content.match_frame_count
        patch.setattr(
            content, "match_frame_count", lambda rows, frames: made(rows[: 3 if frames == 21 else None], frames)
        )
        rows, failed, _ = compute_rows(feature, part_of)
    assert failed == {"b": "HuBERT made 3 frames of 21, and not as many or one less"}
    assert len(rows) == 63 and not rows[20:41].any() and rows[:20].any() and rows[41:].any()


def test_the_shapes_of_a_quantiser_are_checked_before_it_is_converted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrong = torch.zeros(1, dtype=torch.int8).expand(1 << 20)
    torch.save({"weight": dict.fromkeys(semantic_tokens.TENSOR_NAMES.values(), wrong)}, tmp_path / "x.pth")
    monkeypatch.setattr(torch.Tensor, "float", lambda _: pytest.fail("a tensor is converted"))
    with pytest.raises(UsageError, match="holds no SoVITS generator"):
        SovitsTokens(sovits=tmp_path / "x.pth").recipe({**SPECS, "content": content_spec(60)["content"]})


def test_what_is_longer_than_attention_reaches_is_seen_in_pieces(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wave = speech(120)
    (whole,), _ = rows_of(HubertContent(hubert=folder), {"wave": [wave]})
    for name, frames in (("WHOLE", 100), ("PIECE", 50), ("MARGIN", 40)):
        monkeypatch.setattr(HubertContent, name, frames)
    (pieces,), _ = rows_of(HubertContent(hubert=folder), {"wave": [wave]})
    assert pieces.shape == whole.shape == (120, 768) and not np.array_equal(pieces, whole)
    assert np.corrcoef(pieces.ravel(), whole.ravel())[0, 1] > 0.95


def test_what_overflows_in_half_precision_is_made_again_in_fp32(tmp_path: Path) -> None:
    network = networks.hubert(tmp_path)
    with torch.no_grad():  # products beyond 65504 on the way, which the layer norm behind brings back
        for name in ("intermediate_dense", "output_dense"):
            getattr(network.encoder.layers[0].feed_forward, name).weight.mul_(2000)
    network.save_pretrained(tmp_path)
    waves = {"wave": [speech(20), speech(21)]}
    made, part = rows_of(HubertContent(hubert=tmp_path, precision="fp16"), waves)
    exact, _ = rows_of(HubertContent(hubert=tmp_path), waves)
    assert part.counts == {"not finite in fp16: made again in fp32": 2}
    assert all(np.allclose(one, other, atol=1e-2) for one, other in zip(made, exact, strict=True))
    (rough, _), part = rows_of(HubertContent(hubert=tmp_path, precision="bf16"), waves)
    assert not part.counts and abs(rough - exact[0]).max() < 0.5


def test_a_network_that_makes_no_numbers_is_an_error(tmp_path: Path) -> None:
    network = networks.hubert(tmp_path)
    torch.nn.init.constant_(network.encoder.layers[1].final_layer_norm.bias, 1e30)
    network.save_pretrained(tmp_path)
    with pytest.raises(StoreError, match="not finite, even in fp32"):
        rows_of(HubertContent(hubert=tmp_path, precision="bf16"), {"wave": [speech(20)]})


def batches_of(frames: Sequence[int], limit: int, shapes: BatchShapes, stride: int = 1) -> list[list[int]]:
    waves = (np.empty(n) for n in frames)
    return [[len(wave) for wave in batch] for batch in batch_by_length(waves, limit, shapes, stride)]


def test_batches_hold_what_they_may() -> None:
    assert batches_of((1, 2, 2, 5, 9, 30), 10, EXACT) == [[1, 2, 2], [5], [9], [30]]
    assert batches_of((3, 1, 1, 1), 10, EXACT) == [[3, 1, 1], [1]], "the longest counts wherever it is"
    assert batches_of((10, 20, 20, 41, 99), 10, EXACT, stride=10) == [[10, 20, 20], [41], [99]]
    assert batches_of([60] * 4 + [65] * 4, 256, FEW) == [[60] * 4, [65] * 2, [65] * 2], "160 frames for two of 65"
    assert batches_of([33] * 5, 256, FEW) == [[33] * 4, [33]]


def test_there_are_few_shapes() -> None:
    """Lengths between 64 and 3072 frames are padded by a quarter at most."""
    assert len(FEW.lengths) == 23 and list(FEW.lengths) == sorted({*FEW.lengths}) and FEW.lengths[-1] == 3072
    padded = [FEW.padded(1, frames)[1] / frames for frames in range(64, HubertContent.WHOLE + 1)]
    assert min(padded) == 1 and max(padded) < 1.25 and np.mean(padded) < 1.12
    assert FEW.padded(5, 1) == (8, 64) and FEW.padded(8, 64) == (8, 64) and FEW.padded(1, 5000) == (1, 5000)
    assert EXACT.padded(5, 77) == (5, 77)
    frames = range(1, HubertContent.WHOLE + 1)
    possible = {FEW.padded(rows, n) for n in frames for rows in (1, 2, 4, 8, 16, 32, 64)}
    assert sum(rows * length <= HubertContent.BATCH for rows, length in possible) == 95
    assert network_batches.shapes_for("cpu") is EXACT and network_batches.shapes_for("cuda") is FEW


def test_a_device_sees_few_shapes(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = np.sort(np.random.default_rng(0).integers(1, 130, 60))
    waves = {"wave": [speech(frames, frames) for frames in lengths]}
    monkeypatch.setattr(HubertContent, "BATCH", 512)
    with networks.batches_seen() as as_they_are:
        exact, _ = rows_of(HubertContent(hubert=folder), waves)
    monkeypatch.setattr(network_batches, "shapes_for", lambda device: FEW)
    with networks.batches_seen() as seen:
        padded, _ = rows_of(HubertContent(hubert=folder), waves)
    assert len(seen.hidden) == len(seen.samples) <= 8 < len(as_they_are.hidden)
    assert {size[:2] for size in seen.hidden} <= {
        FEW.padded(rows, frames) for frames in lengths for rows in (1, 2, 4, 8) if rows * frames <= 512
    }
    for one, other in zip(padded, exact, strict=True):
        assert np.allclose(one, other, atol=1e-4, rtol=1e-3)  # float16


def test_content_by_mfcc_is_what_the_trainer_makes_of_them() -> None:
    mfcc = [np.random.default_rng(n).standard_normal((n, 20)).astype(np.float16) for n in (6, 11)]
    for width in (None, 768):
        made, part = rows_of(MfccContent(width=width), {"mfcc": mfcc})
        assert part.specs["content"].channels == (width or 60)
        for given, rows in zip(mfcc, made, strict=True):
            own = mfcc_content(torch.from_numpy(given)[None], torch.tensor([len(given)]), width or 60)[0]
            assert rows.dtype == np.float16 and np.array_equal(rows, own.half().numpy())
    with pytest.raises(UsageError, match="60 here, or more"):
        MfccContent(width=59).spec(SPECS)


def content_spec(width: int) -> dict[str, FeatureSpec]:
    spec = FeatureSpec(name="content", axis="frames", dtype="float16", channels=width, recipe={})
    return {"content": spec, "tokens_n": FeatureSpec(name="tokens_n", axis="utterance", dtype="int32", channels=None)}


def test_codes_are_those_of_the_generator_that_is_trained(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = SynthesizerTrn(tiny()).eval()
    model.quantizer.codebook.embed.normal_()
    torch.save({"format": 1, "stage": {"generator": model.state_dict()}}, tmp_path / "run.pt")
    content_ = [np.random.default_rng(n).standard_normal((n, 60)).astype(np.float16) for n in (7, 8, 2, 1)]
    made, part = rows_of(SovitsTokens(sovits=tmp_path / "run.pt"), {"content": content_}, specs=content_spec(60))
    for given, codes in zip(content_, made, strict=True):
        padded = torch.zeros(1, 60, len(given) + len(given) % 2)
        padded[0, :, : len(given)] = torch.from_numpy(given).float().T
        with torch.no_grad():
            wanted = model.quantise(padded, torch.ones(1, 1, padded.shape[2]))[1][0]
        assert codes.dtype == np.int16 and codes.tolist() == wanted.tolist()
    assert part.specs["semantic"].recipe["codebook"] == 64


@pytest.mark.parametrize("name", ["s2_full_v2", "s2_full_v2Pro"])
def test_upstreams_codes(golden: Path, tmp_path: Path, name: str) -> None:
    from tests.helpers.golden_recipe import normal, weight  # of the fixtures' own weights and inputs

    fixture, shapes = np.load(golden / f"{name}.npz"), networks.quantiser(768)
    torch.save({"weight": {key: torch.from_numpy(weight(key, of.shape)) for key, of in shapes.items()}}, tmp_path / "G")
    codes_BQ = fixture["codes"][:, 0]
    ssl = normal(f"{name.removeprefix('s2_')}.ssl", (2, 768, 2 * codes_BQ.shape[1]), 0.6)
    for row, frames in enumerate((48, 41)):
        ssl[row, :, frames:] = 0
        given = [np.ascontiguousarray(ssl[row, :, :frames].T, np.float32)]
        (made,), _ = rows_of(SovitsTokens(sovits=tmp_path / "G"), {"content": given}, specs=content_spec(768))
        assert made.tolist() == codes_BQ[row, : -(-frames // 2)].tolist()


def test_a_store_without_networks_gets_codes_of_its_own(root: Path) -> None:
    assert add(root, "semantic", "--codes", 16).exit_code == 0
    opened = store.open(root)
    assert list(opened.features)[-3:] == ["content", "tokens_n", "semantic"] and not list(verify(root))
    assert opened.features["semantic"].recipe["codebook"] == 16
    assert np.array_equal(opened.lengths("tokens"), (opened.frames + 1) // 2)
    codes = np.concatenate([opened.read("semantic", n) for n in range(len(opened))])
    assert codes.min() >= 0 and codes.max() < 16 and len(set(codes.tolist())) > 8


def test_content_and_codes_by_networks_in_one_go(root: Path, folder: Path, tmp_path: Path) -> None:
    networks.sovits(tmp_path / "G.pth", 768)
    words = ("--hubert", folder, "--sovits", tmp_path / "G.pth")
    assert add(root, "semantic", *words).exit_code == 0 and not list(verify(root))
    opened = store.open(root)
    weights_of = {name: opened.features[name].recipe["weights"] for name in ("content", "semantic")}
    assert weights_of["content"] == weight_files.digest([folder / "model.safetensors"]) != weights_of["semantic"]
    again = add(root, "content,semantic", *words, "--json")
    assert [done["parts_built"] for done in json.loads(again.stdout)["added"].values()] == [0, 0]
    other = tmp_path / "other"
    networks.hubert(other, seed=1)
    refused = add(root, "content", "--hubert", other)
    assert refused.exit_code == 1 and "The store has content made with weights=" in refused.stderr
    assert [line.split()[0] for line in refused.stderr.splitlines() if line.endswith("differs")] == ["weights"]


def test_a_build_makes_all_of_it(tmp_path: Path, plain: Path, folder: Path) -> None:
    corpus, words = plain.parent / "corpus", ("--part-hours", 0.001, "--codes", 16)
    both = build(
        corpus, tmp_path / "S", *words, "--features", "wave,mel,mfcc,f0,phones,content,semantic", "--hubert", folder
    )
    assert both.exit_code == 0 and not list(verify(tmp_path / "S"))
    assert store.open(tmp_path / "S").features["content"].channels == 768


KILLED_AT_A_SYNC = """
import os, signal, sys
from headrace.store.storage import local
from tests.helpers.commands import add

left, sync = int(sys.argv[1]), local.fsync

def counted(path):
    global left
    left -= 1
    if not left:
        os.kill(os.getpid(), signal.SIGKILL)
    sync(path)

local.fsync = counted
sys.exit(add(*sys.argv[2:]).exit_code)
"""


def killed_at(root: Path, moment: int) -> int:
    command = [sys.executable, "-c", KILLED_AT_A_SYNC, str(moment), str(root), "semantic", "--codes", "16"]
    return subprocess.run(command, check=False).returncode


@pytest.mark.parametrize("moment", [25])
def test_killed_on_the_way_it_is_finished_to_the_same_bytes(
    plain: Path, root: Path, tmp_path: Path, moment: int
) -> None:
    whole = shutil.copytree(plain, tmp_path / "WHOLE")
    assert add(whole, "semantic", "--codes", 16).exit_code == 0
    assert killed_at(root, moment) == -signal.SIGKILL and "semantic" not in store.open(root).features
    assert add(root, "semantic", "--codes", 16).exit_code == 0
    assert part_bytes(root) == part_bytes(whole) and not list(verify(root))


@pytest.mark.soak
def test_killed_at_every_sync(plain: Path, tmp_path: Path) -> None:
    whole = shutil.copytree(plain, tmp_path / "WHOLE")
    assert add(whole, "semantic", "--codes", 16).exit_code == 0
    for moment in range(1, 100):
        root = shutil.copytree(plain, tmp_path / str(moment))
        if killed_at(root, moment) == 0:
            break
        assert add(root, "semantic", "--codes", 16).exit_code == 0
        assert part_bytes(root) == part_bytes(whole), moment
    assert 40 < moment < 99


@pytest.fixture(scope="module")
def roberta(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("bert")
    networks.bert(made)
    return made


def meant(
    folder: Path, spoken: Sequence[tuple[str, str, Sequence[int]]], **choices: Any
) -> tuple[list[np.ndarray], Part]:
    languages, texts, words = zip(*spoken, strict=True)
    arrays = {"phone_word": [np.array(one, np.int16) for one in words]}
    read = {"phone_word": FeatureSpec(name="phone_word", axis="phones", dtype="int16", channels=None, recipe={})}
    strings = {"language": languages, "text": texts, "aligned": [0] * len(texts)}.__getitem__
    return rows_of(Bert(bert=folder, **choices), arrays, specs=read, strings=strings)


def test_a_phone_means_what_its_character_does(roberta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import BertModel, BertTokenizer

    text, counts = "你好,世A!", [2, 2, 1, 2, 1, 1]
    tokens = BertTokenizer(str(roberta / "vocab.txt"))(text, return_tensors="pt")
    with torch.inference_mode():
        states = BertModel.from_pretrained(roberta)(**tokens, output_hidden_states=True).hidden_states[-3][0, 1:-1]
    wanted = states.numpy().repeat(counts, axis=0)
    words = np.arange(6).repeat(counts)
    spoken = [
        ("zh", text, words),
        ("en", "hello", [-1, -1]),
        ("zh", "世界", [0, 0, 1, -1]),
        ("zh", "你好", [0, 0, 0, 2]),
    ]
    for together in (1, 32):
        monkeypatch.setattr(Bert, "BATCH", together)
        made, part = meant(roberta, spoken)
        assert made[0].dtype == np.float16 and np.allclose(made[0], wanted, atol=1e-4, rtol=1e-3)
        assert not made[1].any() and made[1].shape == (2, 1024)
        assert not made[2][3].any() and np.array_equal(made[2][0], made[2][1]) and made[2][2].any()
        assert not made[3].any() and part.counts == {"texts whose phones are of other characters: zeros": 1}


def test_a_build_reads_chinese_texts_by_bert_and_has_zeros_for_others(roberta: Path, tmp_path: Path) -> None:
    from transformers import BertModel, BertTokenizer

    network, tokens = BertModel.from_pretrained(roberta), BertTokenizer(str(roberta / "vocab.txt"))
    lines = ["a.wav|li|ZH|你好世界！", "b.wav|li|ZH|我有12个你。", "c.wav|anna|EN|Hello.", "d.wav|mei|yue|你好"]
    for number, line in enumerate(lines):
        soundfile.write(tmp_path / line.split("|")[0], buzz(0.5 + number / 10, 32_000, number), 32_000)
    (tmp_path / "c.list").write_text("\n".join(lines), encoding="utf-8")
    root = tmp_path / "STORE"
    assert build(tmp_path, root, "--features", "bert", "--bert", roberta).exit_code == 0 and not list(verify(root))
    opened = store.open(root)
    for number in range(4):
        found, reading = opened.read("bert", number), phonemise(opened.texts[number], opened.languages[number])
        assert found.shape == (len(reading.phones), 1024) and found.any() == (opened.languages[number] == "zh")
        if found.any():
            with torch.inference_mode():
                heard = network(**tokens(reading.text, return_tensors="pt"), output_hidden_states=True)
            wanted = heard.hidden_states[-3][0, 1:-1].numpy().repeat(reading.word2ph, axis=0)
            assert np.allclose(found, wanted, atol=1e-3, rtol=1e-3)


def test_a_long_text_is_read_in_pieces(roberta: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Bert, "MAX_CHARACTERS", 3)
    (long, first), _ = meant(roberta, [("zh", "你好世界你", range(5)), ("zh", "你好世", range(3))])
    assert len(long) == 5 and np.allclose(long[:3], first, atol=1e-3)


def test_a_text_is_read_again_as_it_was_when_the_store_was_built() -> None:
    """Where phones were made here, they count the characters of the text in words: its spec's recipe says so."""
    spec = {one.name: one for one in feature_specs(PRESETS["gpt-sovits-v2"], ("phones",))}
    assert spec["phone_word"].recipe == PHONE_WORD_RECIPE != gpt_sovits_dir.word_spec().recipe


def test_voices_are_told_apart_and_found_again() -> None:
    time = np.arange(32_000 * 3) / 32_000
    voices = [sum(np.sin(2 * np.pi * pitch * k * time) / k for k in range(1, 20)) for pitch in (110, 220)]
    waves = [
        (4000 * voice * np.hanning(len(voice))).astype(np.int16)[: n * 640].reshape(n, 640)
        for voice in voices
        for n in (150, 90)
    ]
    (low, low_, high, _), part = rows_of(Resemblyzer(), {"wave": waves})
    assert low.shape == (1, 256) and np.linalg.norm(low.astype(np.float32)) == pytest.approx(1, abs=1e-3)
    alike, other = float((low @ low_.T)[0, 0]), float((low @ high.T)[0, 0])
    assert alike > other + 0.05 and part.specs["speaker_vector"].recipe["network"] == "resemblyzer"
    (silent,), _ = rows_of(Resemblyzer(), {"wave": [np.zeros((3, 640), np.int16)]})
    assert np.isfinite(silent).all()


@pytest.fixture(scope="module")
def eres(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small random numbers in the shapes of the published weights; with a layer that is not read."""
    with torch.device("meta"):
        shapes = {name: of.shape for name, of in eres2net.ERes2NetV2().state_dict().items()}
    torch.manual_seed(0)
    state = {name: torch.empty(shape).uniform_(0.01, 0.02) for name, shape in shapes.items()}
    file = tmp_path_factory.mktemp("eres") / "eres.ckpt"
    torch.save({**state, "seg_1.bias": torch.zeros(192)}, file)
    return file


def test_upstreams_speaker_vector(eres: Path) -> None:
    """Its parameters are the 53,513,632 of the published network, less the 7,864,512 of the layer behind the map."""
    network = speaker_vector._eres2net(eres, weight_files.digest([eres]), "cpu")
    assert sum(tensor.numel() for tensor in network.parameters()) == 53_513_632 - 7_864_512
    made, _ = rows_of(ERes2NetV2(speaker=eres), {"wave": [speech(3), speech(40)]})
    assert [rows.shape for rows in made] == [(1, 20480)] * 2 and all(np.isfinite(rows).all() for rows in made)


def test_another_networks_weights_are_no_eres2net(root: Path, eres: Path, tmp_path: Path) -> None:
    state = torch.load(eres, weights_only=True)
    torch.save({name: of for name, of in state.items() if not name.startswith("fuse34")}, tmp_path / "other.ckpt")
    result = add(root, "speaker_vector", "--speaker-encoder", tmp_path / "other.ckpt")
    assert result.exit_code == 2 and "holds no ERes2NetV2" in result.stderr and "fuse34" in result.stderr


class Run:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def spoilt(folder: Path, how: str, trace: Path) -> None:
    """A HuBERT folder with something wrong."""
    config, file = networks.config_of(folder), folder / "model.safetensors"
    if how == "code":
        file.unlink()
        torch.save({"x": Run(os.mkdir, str(trace))}, folder / "pytorch_model.bin")
    elif how == "cut":
        file.write_bytes(file.read_bytes()[:-1000])
    elif how == "bin":
        torch.save({"x": torch.zeros(3)}, folder / "pytorch_model.bin")
        (folder / "pytorch_model.bin").write_bytes((folder / "pytorch_model.bin").read_bytes()[:300])
        file.unlink()
    elif how == "nothing":
        file.unlink()
    elif how == "lacking":
        networks.hubert(folder, changed(num_hidden_layers=1))
    elif how == "json":
        (folder / "config.json").write_text("{")
        return
    changes = {
        "width": {"hidden_size": 1024},
        "kind": {"model_type": "wav2vec2"},
        "stride": {"conv_stride": [5, 2, 2, 1, 1, 1, 1]},
    }
    (folder / "config.json").write_text(json.dumps(config | changes.get(how, {})))


@pytest.mark.parametrize(
    "how, line",
    [
        ("code", "is refused: loading it would run posix.mkdir"),
        ("cut", "model.safetensors is damaged, or not a safetensors file"),
        ("bin", "pytorch_model.bin is damaged, or not a file of weights"),
        ("nothing", "holds no weights: neither model*.safetensors nor pytorch_model*.bin"),
        ("lacking", "tensors, such as encoder.layers.1"),
        ("json", "config.json is not JSON"),
        ("width", "has hidden_size=1024, and 768 is needed"),
        ("kind", "holds a network of type wav2vec2, and hubert is needed"),
        ("stride", "makes a frame of 20 samples, 320 are needed"),
        ("", "is no folder as transformers writes them: config.json: No such file"),
    ],
)
def test_a_folder_that_is_no_hubert_is_one_line(root: Path, folder: Path, tmp_path: Path, how: str, line: str) -> None:
    given = tmp_path / "hubert"
    if how:
        shutil.copytree(folder, given)
        spoilt(given, how, tmp_path / "ran")
    result = add(root, "content", "--hubert", given)
    assert result.exit_code == 2 and line in result.stderr and result.stderr.count("Error: ") == 1
    assert not (tmp_path / "ran").exists() and "content" not in store.open(root).features and not list(verify(root))


@pytest.mark.parametrize(
    "content, line",
    [
        (Run(os.mkdir, "ran"), "is refused: loading it would run posix.mkdir"),
        ({"weight": {"x": torch.zeros(1)}}, "holds no SoVITS generator"),
        ({"weight": {"x": 1}}, "holds no weights by name where they should be"),
        ([1], "holds no weights by name, but list"),
        ({"weight": networks.quantiser(768)}, "reads content of 768 channels, and here it has 60"),
        (b"", "is damaged, or not a file of weights"),
    ],
)
def test_a_file_that_is_no_sovits_is_one_line(root: Path, tmp_path: Path, content: Any, line: str) -> None:
    file = tmp_path / "G.pth"
    torch.save(content, file) if content else file.touch()
    result = add(root, "semantic", "--sovits", file)
    assert result.exit_code == 2 and line in result.stderr and not Path("ran").exists()


def test_upstreams_archives_under_another_head_are_read(tmp_path: Path) -> None:
    named = networks.sovits(tmp_path / "G.pth", 8)
    data = (tmp_path / "G.pth").read_bytes()
    (tmp_path / "G.pth").write_bytes(b"05" + data[2:])
    found = weight_files.read([tmp_path / "G.pth"], weight_files.digest([tmp_path / "G.pth"]))["weight"]
    assert all(torch.equal(found[name], tensor) for name, tensor in named.items())
    with pytest.raises(UsageError, match="is not here what it was"):
        weight_files.read([tmp_path / "G.pth"], "0" * 64)
    flipped = bytearray(data)
    flipped[data.index(named["ssl_proj.bias"].numpy().tobytes())] ^= 1
    (tmp_path / "G.pth").write_bytes(flipped)
    with pytest.raises(UsageError, match="does not match its checksum"):
        weight_files.read([tmp_path / "G.pth"], weight_files.digest([tmp_path / "G.pth"]))


@pytest.mark.parametrize(
    "features, words, line",
    [
        ("bert", (), "bert is made by a network: name the folder"),
        ("content", ("--precision", "fp16"), "--precision fp16 applies to a model"),
        ("content", ("--codes", 7), "codes of semantic was given, but semantic was not asked for"),
        ("semantic", ("--codes", 1), "--codes 1: 2 to 32768"),
        ("speaker_vector", ("--speaker-encoder", "/nowhere.ckpt"), "/nowhere.ckpt cannot be read: No such file"),
        (
            "content",
            ("--hubert", "/nowhere", "--content-channels", 60),
            "is of content by MFCC, and --hubert was given",
        ),
    ],
)
def test_mistakes_end_in_one_line(plain: Path, features: str, words: tuple[object, ...], line: str) -> None:
    result = add(plain, features, *words)
    assert result.exit_code == 2 and line in result.stderr and result.stderr.count("Error: ") == 1


def test_more_codes_than_vectors_cannot_be_learned(root: Path) -> None:
    result = add(root, "semantic", "--codes", 30_000)
    assert result.exit_code == 1 and "cannot make 30000 codes" in result.stderr


def test_stores_of_other_rates_are_refused(folder: Path) -> None:
    specs = {spec.name: spec for spec in feature_specs(PRESETS["gpt-sovits-v4"], ("wave",))}
    with pytest.raises(UsageError, match="50 frames a second, this store 100"):
        HubertContent(hubert=folder).spec(specs)


def test_networks_cross_processes_as_their_names_alone(folder: Path) -> None:
    assert len(pickle.dumps(HubertContent(hubert=folder))) < 1000


def test_inputs_that_do_not_fit_into_memory_together_are_computed_in_halves() -> None:
    tried: list[int] = []

    def compute(inputs: Sequence[int]) -> list[np.ndarray]:
        tried.append(len(inputs))
        if len(inputs) > 2 or 99 in inputs:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return [np.full(2, number) for number in inputs]

    rows = huggingface.halved_on_out_of_memory(compute, range(7))
    assert [int(row[0]) for row in rows] == list(range(7)) and tried == [7, 3, 1, 2, 4, 2, 2]
    with pytest.raises(torch.OutOfMemoryError):
        huggingface.halved_on_out_of_memory(compute, [1, 99])


def test_threads_that_ask_for_a_network_at_once_load_it_once() -> None:
    loaded: list[str] = []

    @load_once
    def load(name: str) -> list[str]:
        time.sleep(0.05)
        loaded.append(name)
        return [name]

    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(load, ["a"] * 4))
    assert loaded == ["a"] and all(one is found[0] for one in found)
    assert load("b") == ["b"] and loaded == ["a", "b"]


@pytest.mark.parametrize("name", ["bert", "eres2net", "resemblyzer"])
def test_networks_compute_without_tf32(name: str, roberta: Path) -> None:
    seen: set[tuple[bool, bool]] = set()

    def note(module: nn.Module, _: object) -> None:
        if isinstance(module, nn.Linear | nn.Conv2d | nn.LSTM):
            seen.add(tf32_is_allowed())

    watch = torch.nn.modules.module.register_module_forward_pre_hook(note)
    allow_tf32(True)
    try:
        if name == "bert":
            meant(roberta, [("zh", "你好", [0, 0, 1])])
        else:
            network = eres2net.ERes2NetV2() if name == "eres2net" else speaker_vector.GE2E()
            network.eval()(torch.zeros(1, 16, eres2net.MELS if name == "eres2net" else 40))
    finally:
        torch.set_float32_matmul_precision("highest")  # the other setting is torch's own
        watch.remove()
    assert seen == {(False, False)}
