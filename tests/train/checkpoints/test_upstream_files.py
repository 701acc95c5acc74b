"""Upstream's checkpoint files: read without running them, written as upstream reads them."""

from __future__ import annotations

import hashlib
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from headrace.store.errors import RunError, StoreError, UsageError
from headrace.train.checkpoints import export, initial_weights, upstream_files
from headrace.train.checkpoints.load_weights import load_strict
from headrace.train.checkpoints.upstream_files import describe, read, write
from headrace.train.models import gpt_config, sovits_config
from headrace.train.models.discriminator import MultiPeriodDiscriminator
from headrace.train.models.gpt import Text2SemanticDecoder
from headrace.train.models.sovits import SynthesizerTrn
from tests.helpers.numbered_weights import number_weights

WEIGHTS = {"a.weight": torch.arange(6.0).view(2, 3), "b": torch.tensor([0.5]), "steps": torch.tensor([3, 4])}


@pytest.mark.parametrize(("name", "head"), [("s2_v2", ""), ("s2_v2Pro", "v2Pro")])
def test_its_trained_weights_are_read(golden: Path, name: str, head: str) -> None:
    facts = json.loads((golden / "data_mini.json").read_text())["ckpt_samples"][f"{name}.pth"]
    made = read(golden / "ckpt_samples" / f"{name}.pth")
    assert {key: [str(of.dtype), list(of.shape)] for key, of in made.weights.items()} == facts["weight"]
    assert (made.info, made.version) == (facts["info"], head)
    assert made.config["train"] == {"epochs": 8} and made.config["model"] == {"version": "v2"}
    assert type(made.config["data"]) is dict


def test_its_checkpoints_to_resume_from_are_read(golden: Path) -> None:
    made = read(golden / "ckpt_samples" / "G_123.pth")
    assert {name: list(of.shape) for name, of in made.weights.items()} == {"weight": [2, 2], "bias": [2]}
    assert (made.config, made.info, made.version) == ({}, "", "")


class Run:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


@pytest.mark.parametrize("protocol", [2, 4])
@pytest.mark.parametrize("place", ["weight", "config", "info"])
def test_a_file_that_would_run_code_is_refused_by_name(tmp_path: Path, place: str, protocol: int) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "ran"
    content: dict[str, Any] = {"weight": dict(WEIGHTS), "config": {}, "info": ""}
    payload = Run(os.mkdir, str(trace))
    content[place] = content["weight"] | {"x": payload} if place == "weight" else payload
    torch.save(content, path, pickle_protocol=protocol)
    for head in (b"PK", b"05"):
        path.write_bytes(head + path.read_bytes()[2:])
        with pytest.raises(RunError, match=r"evil\.pth is refused: loading it would run posix\.mkdir,"):
            read(path)
    assert not trace.exists()
    pickle.loads(pickle.dumps(payload))
    assert trace.exists()  # it would have


def test_files_that_are_not_checkpoints_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    for data in (b"", b"P", b"RIFFxxxx", b"07" + bytes(50), b"PK", b"05" + bytes(50)):
        path.write_bytes(data)
        with pytest.raises(RunError, match=r"x\.pth is (not a checkpoint of GPT-SoVITS|damaged)"):
            read(path)
    for content in ([1], {"state": WEIGHTS}, {"weight": {"a": 1.0}}, {"weight": WEIGHTS["b"]}):
        torch.save(content, path)
        with pytest.raises(RunError, match="it holds no weights"):
            read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("readme.txt", "hello")
    with pytest.raises(RunError, match="damaged, or not a checkpoint"):
        read(path)
    with pytest.raises(RunError, match=r"Cannot read .*: No such file"):
        read(tmp_path / "absent.pth")


def test_damaged_files_are_always_detected(tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    write(path, WEIGHTS, {"model": {"version": "v2"}}, "1epoch_2iteration")
    sound, dice = path.read_bytes(), random.Random(0)
    for _ in range(60):
        path.write_bytes(sound[: dice.randrange(len(sound))])
        with pytest.raises(RunError):
            read(path)
    want = read_bytes(path, sound)
    for _ in range(200):
        at = dice.randrange(2, len(sound))
        flipped = bytearray(sound)
        flipped[at] ^= 1 << dice.randrange(8)
        try:
            made = read_bytes(path, bytes(flipped))
        except RunError:
            continue
        assert_equal(made, want)  # what was hit was padding


def read_bytes(path: Path, data: bytes) -> dict[str, Tensor]:
    path.write_bytes(data)
    return read(path).weights


def assert_equal(made: dict[str, Tensor], want: dict[str, Tensor]) -> None:
    assert list(made) == list(want)
    for name, tensor in made.items():
        assert tensor.dtype == want[name].dtype and torch.equal(tensor, want[name]), name


@pytest.mark.parametrize("head", [b"PK", b"05", b"06", b"01"])
def test_a_round_trip_keeps_every_tensor(tmp_path: Path, head: bytes) -> None:
    config = {"model": {"version": "v2", "rates": [10, 8]}, "data": {"mel_fmax": None}}
    write(tmp_path / "x.pth", WEIGHTS, config, "8epoch_9iteration", head)
    made = read(tmp_path / "x.pth")
    assert_equal(made.weights, {name: of.half() for name, of in WEIGHTS.items()})
    assert (made.config, made.info) == (config, "8epoch_9iteration")
    assert made.version == {b"PK": "", b"05": "v2Pro", b"06": "v2ProPlus", b"01": "v2"}[head]
    assert (tmp_path / "x.pth").read_bytes()[:2] == head
    assert os.listdir(tmp_path) == ["x.pth"]


def test_write_errors_are_reported(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="Cannot write"):
        write(tmp_path / "file" / "x.pth", WEIGHTS, {}, "")


def generator(config: sovits_config.SovitsConfig) -> SynthesizerTrn:
    with torch.device("meta"):
        model = SynthesizerTrn(config)
    return number_weights(model)


@pytest.mark.parametrize("version", ["v1", "v2", "v2Pro", "v2ProPlus"])
def test_generators_are_written_in_upstream_s_format(golden: Path, tmp_path: Path, version: str) -> None:
    published = json.loads((golden / f"s2G_{version}_state.json").read_text())["state"]
    path, model = tmp_path / "voice.pth", generator(getattr(sovits_config, version)())
    assert export.export_sovits(path, model, name="voice", epoch=8, step=120) == version
    data = path.read_bytes()
    assert data[:2] == {"v2Pro": b"05", "v2ProPlus": b"06"}.get(version, b"PK")
    if data[:2] == b"PK":
        assert (len(data) < 82_978 * 1024) == (version == "v1")
        assert set(torch.load(path, weights_only=True)) == {"weight", "config", "info"}
    made, own = read(path), model.state_dict()
    speaking = {name: entry["shape"] for name, entry in published.items() if not name.startswith("enc_q.")}
    assert {name: list(of.shape) for name, of in made.weights.items()} == speaking
    assert_equal(made.weights, {name: own[name].half() for name in speaking})
    assert made.info == "8epoch_120iteration"
    assert describe(made.weights) == f"a SoVITS generator of {version}"
    if version in ("v2", "v2Pro"):
        config = json.loads((golden / f"s2_full_{version}.json").read_text())["config"]
        assert made.config["model"] | {"freeze_quantizer": True} == config
    assert made.config["train"]["segment_size"] == 20480
    assert made.config["data"]["filter_length"] == 2048 and made.config["data"]["hop_length"] == 640


def test_decoders_are_written_in_upstream_s_format(golden: Path, tmp_path: Path) -> None:
    published = json.loads((golden / "s1_v2_state.json").read_text())["state"]
    with torch.device("meta"):
        model = Text2SemanticDecoder(gpt_config.v2())
    path = tmp_path / "voice.ckpt"
    assert export.export_gpt(path, number_weights(model), epoch=15) == "v2"
    content = torch.load(path, weights_only=True)
    assert list(content) == ["weight", "config", "info"] and content["info"] == "GPT-e15"
    assert list(content["weight"]) == [f"model.{name}" for name in published]
    assert {of.dtype for of in content["weight"].values()} == {torch.float16}
    small = json.loads((golden / "s1_golden.json").read_text())["small_config"]["model"]
    assert set(small) <= set(content["config"]["model"])
    assert content["config"]["model"]["EOS"] == 1024 and content["config"]["data"]["max_sec"] == 54
    fresh = Text2SemanticDecoder(gpt_config.v2())
    initial_weights.initialise(fresh, initial_weights.read(path, "model"))
    assert_equal(dict(fresh.state_dict()), {name: of.float() for name, of in read(path).weights.items()})


def test_files_have_upstream_s_names() -> None:
    assert export.sovits_file("anna", 8, 120) == "anna_e8_s120.pth"
    assert export.gpt_file("anna", 15) == "anna-e15.ckpt"


def test_sizes_that_upstream_does_not_know_are_not_written(tmp_path: Path) -> None:
    model = generator(replace(sovits_config.v2(), n_heads=4))
    with pytest.raises(UsageError, match="No published version") as caught:
        export.export_sovits(tmp_path / "x.pth", model, name="x", epoch=1, step=1)
    assert caught.value.details == ("n_heads: 4 here, 2 in v2",)
    with pytest.raises(UsageError, match="No published version") as caught:
        export.export_gpt(tmp_path / "x.ckpt", Text2SemanticDecoder(gpt_config.tiny()), epoch=1)
    assert "layers: 4 here, 24 in v2" in caught.value.details
    assert not list(tmp_path.iterdir())
    trained = generator(replace(sovits_config.v2(), freeze_quantizer=True, segment_frames=16, p_dropout=0.0))
    assert export.export_sovits(tmp_path / "x.pth", trained, name="x", epoch=1, step=1) == "v2"


def test_weights_of_another_model_are_described(tmp_path: Path) -> None:
    path = tmp_path / "D.pth"
    with torch.device("meta"):
        six, eight = (MultiPeriodDiscriminator(of.periods, 64) for of in (sovits_config.v2(), sovits_config.v2Pro()))
    six, eight = number_weights(six), number_weights(eight)
    torch.save({"weight": six.state_dict()}, path)
    before = [value.clone() for value in eight.state_dict().values()]
    with pytest.raises(RunError, match=r"holds 6 discriminators, as v1 and v2 have, and .* is 8 discriminators"):
        initial_weights.initialise(eight, initial_weights.read(path, "model"))
    assert all(map(torch.equal, eight.state_dict().values(), before))
    fresh = MultiPeriodDiscriminator(sovits_config.v2().periods, 64)
    initial_weights.initialise(fresh, initial_weights.read(path, "model"))
    assert_equal(dict(fresh.state_dict()), dict(six.state_dict()))


def test_a_report_tells_what_does_not_fit() -> None:
    module = nn.ModuleDict({"a": nn.Linear(2, 3), "b": nn.Linear(3, 3)})
    before = [value.clone() for value in module.state_dict().values()]
    given = {"a.weight": torch.zeros(3, 2), "a.bias": torch.zeros(4), "c.x": torch.zeros(1), "c.y": torch.zeros(1)}
    with pytest.raises(RunError, match="of F are not of this model: 2 missing, 2 unknown to it, 1 of") as caught:
        load_strict(module, given, "F")
    assert caught.value.details == (
        "missing in b: b.bias and 1 more",
        "unknown in c: c.x and 1 more",
        "a.bias: 4 given, 3 expected",
    )
    assert all(map(torch.equal, module.state_dict().values(), before))
    half = {name: torch.full_like(value, 0.25).half() for name, value in module.state_dict().items()}
    load_strict(module, half, "F")
    assert module["a"].weight.dtype == torch.float32 and (module["a"].weight == 0.25).all()


def test_exported_weights_initialise_training_but_for_the_posterior_encoder(tmp_path: Path) -> None:
    """It is the one part that upstream's files lack. A part of it, or another part that is missing, is a fault."""
    model, fresh = generator(sovits_config.v2()), generator(sovits_config.v2())
    export.export_sovits(tmp_path / "x.pth", model, name="x", epoch=1, step=1)
    with torch.no_grad():
        fresh.enc_q.pre.weight.fill_(0.5)
        fresh.dec.conv_pre.weight.zero_()
    initial = initial_weights.read(tmp_path / "x.pth", "generator")
    _, told = initial_weights.initialise(fresh, initial)
    assert told.startswith(f"{tmp_path / 'x.pth'} has no posterior encoder (enc_q.*, 103 tensors)")
    assert (fresh.enc_q.pre.weight == 0.5).all() and fresh.dec.conv_pre.weight.any()
    for name in ("enc_q.pre.weight", "dec.conv_pre.weight"):
        weights = {key: value for key, value in model.state_dict().items() if key != name}
        with pytest.raises(RunError, match="are not of this model: 1 missing"):
            initial_weights.initialise(fresh, replace(initial, weights=weights))


@pytest.mark.parametrize("value", [139_816.0, float("nan"), float("-inf")])
def test_what_half_precision_cannot_hold_is_named_and_not_written(tmp_path: Path, value: float) -> None:
    weights = {"a.weight": torch.ones(3), "b.bias": torch.tensor([0.0, value])}
    with pytest.raises(RunError, match=r"x\.pth is not written: b\.bias holds (139816|nan|-inf), and half precision"):
        write(tmp_path / "x.pth", weights, {}, "")
    assert not list(tmp_path.iterdir())


def test_counts_of_a_codebook_that_do_not_fit_are_scaled_with_its_sums(tmp_path: Path) -> None:
    """Only their quotient means anything: the codebook."""
    book = "quantizer.vq.layers.0._codebook."
    counts, sums = torch.tensor([139_816.0, 9.0]), torch.tensor([[279_632.0], [4.5]])
    write(tmp_path / "x.pth", {f"{book}cluster_size": counts, f"{book}embed_avg": sums}, {}, "")
    made = read(tmp_path / "x.pth").weights
    quotient = made[f"{book}embed_avg"].float() / made[f"{book}cluster_size"].float()[:, None]
    assert torch.allclose(quotient, sums / counts[:, None], rtol=2e-3)


def test_files_of_v3_and_v4_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their heads, by the digests of published ones, or by what they hold."""
    path = tmp_path / "x.pth"
    for head, named in ((b"02", "v3"), (b"03", "v3, as LoRA"), (b"04", "v4, as LoRA")):
        path.write_bytes(head + bytes(50))
        with pytest.raises(RunError, match=f"holds a SoVITS generator of {named}: v1, v2, v2Pro and v2ProPlus are"):
            read(path)
    write(path, {"cfm.estimator.a": WEIGHTS["b"]}, {}, "")
    with pytest.raises(RunError, match="of v3 or v4: v1, v2"):
        read(path)
    digest = hashlib.md5(path.read_bytes()[:8192]).hexdigest()
    monkeypatch.setitem(upstream_files.UNREAD_DIGESTS, digest, "v4")
    with pytest.raises(RunError, match="of v4: v1, v2"):
        read(path)
