"""Files of torch that lie about sizes, shapes and what they hold. None runs code, hangs or fills the memory."""

from __future__ import annotations

import io
import json
import os
import random
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from headrace.featurize.exchange import gpt_sovits_dir
from headrace.featurize.features import weight_files
from headrace.featurize.files import torch_archive, torch_pickle
from headrace.featurize.files.torch_archive import CorruptedError
from headrace.store.errors import Rejected, RunError
from headrace.train.checkpoints import initial_weights, trained_models, upstream_files
from headrace.train.checkpoints.checkpoint import Checkpoints
from headrace.train.checkpoints.load_weights import load_strict
from headrace.train.config import RunConfig
from tests.helpers.fuzzing import FUZZ_COUNTS, fuzz
from tests.hostile.torch_files import archive, name, tensor, text

CONTENT = gpt_sovits_dir.tensor_spec("content", "float16")
TOKENS = (
    b"c__builtin__\neval\n",
    name("torch._utils._rebuild_tensor_v2"),
    name("collections.OrderedDict"),
    *(b"( t R Q b ] } ) . 0 2 h\x00 q\x00 r\xff\xff\xff\xff j\xff\xff\xff\xff \x81 \x85 \x93 \x94 \x8f \x97".split()),
)


def bomb() -> bytes:
    """A list of ten lists of ten lists, and so on, each written once."""
    return b"".join(b"]q%c(%se" % (n, (b"h%c" % (n - 1)) * 10 if n else b"N") for n in range(30))


def test_a_bit_that_flipped_in_a_prepared_tensor_is_never_another_number(tmp_path: Path) -> None:
    folder, dice = tmp_path / "4-cnhubert", random.Random(0)
    folder.mkdir()
    want = torch.randn(1, 768, 5).half()
    torch.save(want, folder / "a.pt")
    sound, refused = (folder / "a.pt").read_bytes(), 0
    for _ in range(300):
        flipped, place = bytearray(sound), dice.randrange(8 * len(sound))
        flipped[place // 8] ^= 1 << place % 8
        (folder / "a.pt").write_bytes(flipped)
        try:
            rows = gpt_sovits_dir.read_rows(tmp_path, "a", CONTENT, {"frames": 5, "phones_n": 1})
        except Rejected:
            refused += 1
        else:
            assert np.array_equal(rows, want[0].T.numpy())
    assert refused > 200


def test_a_prepared_tensor_without_checksums_is_refused(tmp_path: Path) -> None:
    (tmp_path / "4-cnhubert").mkdir()
    file = tmp_path / "4-cnhubert" / "a.pt"
    torch.save(torch.zeros(1, 768, 5), file, _use_new_zipfile_serialization=False)
    with pytest.raises(Rejected, match="no archive of"):
        gpt_sovits_dir.read_rows(tmp_path, "a", CONTENT, {"frames": 5, "phones_n": 1})


def test_a_prepared_tensor_of_a_huge_file_is_refused_before_it_is_read(tmp_path: Path) -> None:
    (tmp_path / "4-cnhubert").mkdir()
    with (tmp_path / "4-cnhubert" / "a.pt").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(Rejected, match=r"1,099,511,627,776 bytes, and its tensor needs 15,360"):
        gpt_sovits_dir.read_rows(tmp_path, "a", CONTENT, {"frames": 5, "phones_n": 1})


@pytest.mark.parametrize(
    ("pickle", "reason"),
    [
        (tensor(elements=1 << 28, size=(1 << 28,)), "another size than its tensor"),
        (tensor(elements=-1), "another size than its tensor"),
        (tensor(elements=3, size=(3,)), "another size than its tensor"),
        (tensor(key="1"), "is missing"),
        (tensor(size=(1 << 20,)), "larger than its storage"),
        (tensor(size=(1 << 20, 1 << 20), stride=(0, 0)), "larger than its storage"),
        (tensor(offset=1), "larger than its storage"),
        (tensor(offset=5, size=(0,)), "larger than its storage"),
        (tensor(offset=-1), "whose shape is not one"),
        (tensor(stride=(-1,)), "whose shape is not one"),
        (tensor(size=(1,) * 99, stride=(1,) * 99), "whose shape is not one"),
        (tensor(kind="Double"), "another size than its tensor"),
        (b"(" + tensor() + tensor(elements=8, size=(8,), kind="Half") + b"t", "storage 0 in two ways"),
        (tensor(kind="Bool", elements=16), "truth values"),
        (tensor() + b"(tb", "a Tensor where it needs"),
        (b"]" * 10_000 + b"a" * 9_999, "nests more than"),
        (b"]q\x00h\x00a", "holds itself"),
        (b"(" + bomb() + b"t", "again and again"),
        (b"}" + b")N" + b"s", "a tuple where it needs a str"),
        (name("collections.OrderedDict") + b")R" + name("torch.FloatStorage") + b")R\x86", r"would call torch\.Float"),
        (name("torch.FloatStorage"), "a Name where it needs"),
        (b"\x8b\xff\xff\xff\x7f", "not enough data"),
        (b"\x8e\xff\xff\xff\xff\xff\xff\x00\x00", "bytes"),
        (b"\x8f", "instruction EMPTY_SET"),
        (b"I9\n", "instruction INT"),
        (b"NN", "does not end with one value"),
        (b"N(", "does not end with one value"),
    ],
)  # fmt: skip
def test_a_pickle_that_asks_for_what_no_data_needs_is_refused(pickle: bytes, reason: str) -> None:
    with pytest.raises(CorruptedError, match=reason):
        torch_archive.load(archive(pickle, {"0": bytes(range(2, 18))}))


def test_a_pickle_has_a_bounded_number_of_values(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch_pickle, "MAX_INSTRUCTIONS", 1000)
    torch_archive.load(archive(b"(" + b"N" * 900 + b"t"))
    with pytest.raises(CorruptedError, match="more than 1,000 values"):
        torch_archive.load(archive(b"(" + b"N" * 1000 + b"t"))


def test_constants_and_numbers_are_read_as_they_were_written() -> None:
    state = {"a": [None, True, False, 0, 255, 65535, -(1 << 31), 1 << 40, -1, 0.5, ""], "b": (), "c": {}}
    data = io.BytesIO()
    torch.save(state, data)
    assert repr(torch_archive.load(data.getvalue())) == repr(state)


def test_a_place_in_the_memo_reserves_no_memory() -> None:
    tracemalloc.start()
    try:
        assert torch_archive.load(archive(text("a") + b"r\xff\xff\xff\xff")) == "a"
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_archives_as_torch_does_not_write_them_are_refused() -> None:
    with pytest.raises(CorruptedError, match=r"torch\.save compresses none"):
        torch_archive.load(archive(b"N", {"0": bytes(range(256))}, compression=zipfile.ZIP_DEFLATED))
    twice = io.BytesIO()
    with zipfile.ZipFile(twice, "w") as file, pytest.warns(UserWarning, match="Duplicate"):
        for content in (b"N.", b"\x88."):
            file.writestr("x/data.pkl", content)
    with pytest.raises(CorruptedError, match="two records of one name"):
        torch_archive.load(twice.getvalue())
    for order, is_read in ((b"little", True), (b"big", False)):
        data = io.BytesIO()
        with zipfile.ZipFile(data, "w") as file:
            file.writestr("x/data.pkl", b"N.")
            file.writestr("x/byteorder", order)
        if is_read:
            assert torch_archive.load(data.getvalue()) is None
        else:
            with pytest.raises(CorruptedError, match="byte order"):
                torch_archive.load(data.getvalue())


def test_a_record_that_nothing_refers_to_is_verified_too() -> None:
    data = bytearray(archive(b"N", {"0": b"unused unused"}))
    data[data.index(b"unused")] ^= 1
    with pytest.raises(CorruptedError, match="data/0 does not match its checksum"):
        torch_archive.load(bytes(data))


def test_only_files_are_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    with pytest.raises(CorruptedError, match="not a regular file"):
        torch_archive.load(tmp_path / "pipe.pt")


def test_what_was_written_before_archives_declares_no_more_than_it_has(tmp_path: Path) -> None:
    data = io.BytesIO()
    torch.save({"a": torch.ones(2, 3), "b": torch.arange(5)}, data, _use_new_zipfile_serialization=False)
    sound = data.getvalue()
    assert torch.equal(torch_archive.load(sound, legacy=True)["b"], torch.arange(5))
    for old, new in ((b"K\x06N", b"K\xffN"), (b"K\x05N", b"K\x06N")):
        assert sound.count(old) == 1
        with pytest.raises(CorruptedError, match=r"declare more bytes|another size"):
            torch_archive.load(sound.replace(old, new), legacy=True)
    with pytest.raises(CorruptedError, match="cut short"):
        torch_archive.load(sound[:-1], legacy=True)


@pytest.mark.parametrize("count", FUZZ_COUNTS)
@pytest.mark.parametrize("kind", ["archive", "legacy", "pickle"])
def test_mutations_of_weights(tmp_path: Path, kind: str, count: int) -> None:
    """Weights of GPT-SoVITS and of Hugging Face, as files and as intact archives of mutated pickles."""
    folder = tmp_path / "weights"
    folder.mkdir()
    data = io.BytesIO()
    weights = {"a": torch.arange(6.0).reshape(2, 3), "b": torch.ones(3).half(), "n": torch.tensor([True])}
    torch.save(
        {"weight": weights, "config": {"sizes": [1, 2]}, "info": "1"},
        data,
        _use_new_zipfile_serialization=kind != "legacy",
    )
    seed = data.getvalue()
    if kind == "pickle":
        seed = zipfile.ZipFile(data).read("archive/data.pkl").removesuffix(b".")

    def attempt(mutated: bytes) -> None:
        records = {"0": bytes(24), "1": bytes(6), "2": b"\1"}
        mutated = archive(mutated, records) if kind == "pickle" else mutated
        file = folder / "x.bin"
        file.write_bytes(mutated)
        try:
            weight_files.as_tensors(weight_files.read([file], weight_files.digest([file])).get("weight"), file)
        finally:
            if kind != "legacy":
                upstream_files.read(file)

    fuzz(attempt, [seed], folder=folder, count=count, tokens=TOKENS)


@pytest.mark.parametrize("count", FUZZ_COUNTS)
@pytest.mark.parametrize("kind", ["archive", "pickle"])
def test_mutations_of_weights_to_start_from(tmp_path: Path, kind: str, count: int) -> None:
    """What `--init` names; nothing of a file that is refused is in the network."""
    file = tmp_path / "weights" / "s1.ckpt"
    file.parent.mkdir()
    module = nn.Linear(2, 3)
    with torch.no_grad():
        module.weight.copy_(torch.arange(6.0).reshape(3, 2))
        module.bias.fill_(1)
    data = io.BytesIO()
    torch.save({"weight": module.state_dict(), "config": {"sizes": [1, 2]}, "info": "1"}, data)
    seed = data.getvalue()
    if kind == "pickle":
        seed = zipfile.ZipFile(data).read("archive/data.pkl").removesuffix(b".")
    records = {str(n): value.numpy().tobytes() for n, value in enumerate(module.state_dict().values())}

    def attempt(mutated: bytes) -> None:
        file.write_bytes(archive(mutated, records) if kind == "pickle" else mutated)
        network = nn.Linear(2, 3)
        before = {name: value.clone() for name, value in network.state_dict().items()}
        try:
            initial_weights.initialise(network, initial_weights.read(file, "model"))
        except RunError:
            assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
            raise
        found = upstream_files.read(file)
        upstream_files.describe(found.weights)
        assert isinstance(found.codebook, str) and all(value.isfinite().all() for value in network.parameters())

    fuzz(attempt, [seed], folder=file.parent, count=count, tokens=TOKENS)


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_mutations_of_prepared_tensors(tmp_path: Path, count: int) -> None:
    folder = tmp_path / "exp" / "4-cnhubert"
    folder.mkdir(parents=True)
    data = io.BytesIO()
    torch.save(torch.ones(1, 768, 5).half(), data)

    def attempt(mutated: bytes) -> None:
        (folder / "a.pt").write_bytes(mutated)
        gpt_sovits_dir.read_rows(tmp_path / "exp", "a", CONTENT, {"frames": 5, "phones_n": 1})

    fuzz(attempt, [data.getvalue()], folder=folder.parent, count=count)


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_mutations_of_checkpoints(tmp_path: Path, count: int) -> None:
    checkpoints = Checkpoints(tmp_path / "run" / "checkpoints")
    file = checkpoints.save(1, {"stage": {"generator": {"a": torch.ones(3)}}, "seen": [1, 2, 3]})

    def attempt(mutated: bytes) -> None:
        file.write_bytes(mutated)
        checkpoints.load_newest()

    fuzz(attempt, [file.read_bytes()], folder=tmp_path / "run", count=count)


@pytest.mark.parametrize(
    "weights",
    [
        {"ar_predict_layer.weight": torch.ones(2, 2)},
        {"ar_predict_layer.weight": torch.tensor(1), "ar_text_embedding.word_embeddings.weight": torch.tensor(1)},
        {"discriminators.0.conv_post.weight_v": torch.ones(1), "lone": torch.ones(1)},
        {"enc_p.text_embedding.weight": torch.tensor(1.0)},
        {"enc_p.text_embedding.weight": torch.ones(322, 1), "sv_emb.weight": torch.ones(1)},
        {},
    ],
)
def test_weights_that_are_only_named_like_a_model_are_not_loaded(tmp_path: Path, weights: dict[str, Tensor]) -> None:
    upstream_files.describe(weights)
    torch.save({"weight": weights}, tmp_path / "x.pth")
    for load in (trained_models.load_sovits, trained_models.load_gpt):
        with pytest.raises(RunError):
            load(tmp_path / "x.pth")
    run = tmp_path / "run"
    for stage, part in (("sovits", "generator"), ("gpt", "model")):
        Checkpoints(run / "checkpoints").save(1, {"stage": {part: weights, "epoch": 1}})
        config = RunConfig.from_options(store=tmp_path / "store", out=run, stage=stage, preset="tiny")
        (run / "config.json").write_text(json.dumps(config.to_json()))
        with pytest.raises(RunError):
            (trained_models.load_sovits if stage == "sovits" else trained_models.load_gpt)(run)
        with pytest.raises(RunError):
            trained_models.export_run(run, tmp_path / "out.pth")


@pytest.mark.parametrize("state", [{}, {"stage": 1}, {"stage": {}}, {"stage": {"generator": {"a": 1}}}])
def test_a_checkpoint_without_weights_is_not_exported(tmp_path: Path, state: dict[str, Any]) -> None:
    Checkpoints(tmp_path / "checkpoints").save(1, state)
    config = RunConfig.from_options(store=tmp_path / "store", out=tmp_path, stage="sovits", preset="tiny")
    (tmp_path / "config.json").write_text(json.dumps(config.to_json()))
    for use in (trained_models.load_sovits, lambda run: trained_models.export_run(run, tmp_path / "out.pth")):
        with pytest.raises(RunError, match="holds no weights of a generator"):
            use(tmp_path)


@pytest.mark.parametrize("use", ["load_sovits", "export_run"])
def test_an_older_checkpoint_is_not_taken_without_a_word(tmp_path: Path, use: str) -> None:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    for step in (1, 2, 3):
        checkpoints.save(step, {"stage": {}})
    for step in (2, 3):
        checkpoints.path(step).write_bytes(checkpoints.path(step).read_bytes()[:-9])
    config = RunConfig.from_options(store=tmp_path / "store", out=tmp_path, stage="sovits", preset="tiny")
    (tmp_path / "config.json").write_text(json.dumps(config.to_json()))
    more = {"out": tmp_path / "out.pth"} if use == "export_run" else {}
    with pytest.warns(UserWarning) as warned, pytest.raises(RunError):
        getattr(trained_models, use)(tmp_path, **more)
    told = [str(one.message) for one in warned]
    assert [line.partition(" (")[0] for line in told[:2]] == [f"{checkpoints.path(n)} is damaged" for n in (3, 2)]
    assert told[2:] == [f"the weights of {tmp_path} are those of step 1"]


def test_weights_that_are_no_numbers_are_not_loaded() -> None:
    module = nn.Linear(2, 2)
    before = module.weight.clone()
    with pytest.raises(RunError, match="bias holds numbers that are not finite"):
        load_strict(module, {"weight": torch.ones(2, 2), "bias": torch.tensor([0.0, float("inf")])}, "x.pth")
    assert torch.equal(module.weight, before)
