"""Files of `torch.save` are loaded as data: what is damaged, inflates or would run code is refused beforehand."""

from __future__ import annotations

import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from headrace.featurize.files import torch_archive, torch_pickle
from headrace.featurize.files.torch_archive import CorruptedError, UnsafeError, load, names_in

PROTOCOLS = range(5)
DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")


class Run:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def test_names_in_a_pickle_are_found_however_they_are_written() -> None:
    for protocol in PROTOCOLS:
        data = pickle.dumps([{"a": "text"}, Run(os.getcwd), struct.Struct], protocol=protocol)
        assert {f"{os.name}.getcwd", "_struct.Struct"} <= set(names_in(data)), protocol


@pytest.mark.parametrize(
    "data",
    [
        b"\x8c\x02aa\x94\x8c\x01b\x94K\x050\x93\x8c\x02zz0h\x00h\x01\x93.",
        b"\x8c\x02aaq\x05\x8c\x01bq\x06K\x050\x93\x8c\x02zz0h\x05h\x06\x93.",
        b"\x8c\x02aar\x05\x00\x00\x00\x8c\x01br\x06\x00\x00\x00K\x050\x93\x8c\x02zz0j\x05\x00\x00\x00j\x06\x00\x00\x00\x93.",
    ],
    ids=["MEMOIZE", "BINPUT", "LONG_BINPUT"],
)
def test_names_that_a_pickle_remembers_are_found_again(data: bytes) -> None:
    assert list(names_in(data)) == ["aa.b", "aa.b"]


@pytest.mark.parametrize("archive", [True, False])
def test_tensors_of_every_dtype_are_loaded(tmp_path: Path, archive: bool) -> None:
    saved = OrderedDict((name, torch.ones(3, dtype=getattr(torch, name))) for name in DTYPES)
    saved["parameter"] = nn.Parameter(torch.zeros(2))
    file = tmp_path / "x.pt"
    torch.save({"weights": saved, "step": 3, "note": "text"}, file, _use_new_zipfile_serialization=archive)
    for source in (file, file.read_bytes()):
        loaded = load(source, legacy=not archive)
        assert (loaded["step"], loaded["note"]) == (3, "text")
        assert all(torch.equal(loaded["weights"][name], tensor) for name, tensor in saved.items())
    if not archive:
        with pytest.raises(CorruptedError):
            load(file)


@pytest.mark.parametrize("archive", [True, False])
def test_calls_are_refused_by_name_before_torch_sees_them(
    tmp_path: Path, archive: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.pt"
    torch.save(
        [torch.ones(1), Run(os.mkdir, "ran"), Run(struct.Struct, "i")], file, _use_new_zipfile_serialization=archive
    )
    monkeypatch.setattr(torch, "load", lambda *_, **__: pytest.fail("torch saw it"))
    with pytest.raises(UnsafeError) as caught:
        load(file, legacy=True)
    assert caught.value.names == ["_struct.Struct", f"{os.name}.mkdir"]
    assert not Path("ran").exists()


def test_a_class_is_loaded_only_as_the_stand_in_that_was_named(tmp_path: Path) -> None:
    class Foreign:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch_archive.HParams, (), {"epochs": 8}

    file = tmp_path / "x.pt"
    torch.save({"config": Foreign()}, file)
    inside = "headrace.featurize.files.torch_archive.HParams"
    with pytest.raises(UnsafeError, match=inside):
        load(file, classes=torch_archive.GPT_SOVITS)
    assert vars(load(file, classes={inside: torch_archive.HParams})["config"]) == {"epochs": 8}


def test_what_inflates_beyond_the_file_is_refused_before_it_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "x.pt"
    torch.save({"weights": torch.zeros(1 << 20)}, tmp_path / "plain.pt")
    with zipfile.ZipFile(tmp_path / "plain.pt") as plain, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
        for name in plain.namelist():
            packed.writestr(name, plain.read(name))
    monkeypatch.setattr(zipfile.ZipFile, "testzip", lambda _: pytest.fail("it was inflated"))
    with pytest.raises(CorruptedError, match=r"declare 4,19\d,\d+ bytes, and the whole file has"):
        load(file)


def test_storages_that_the_rest_of_a_file_has_no_room_for_are_refused_before_memory_is_reserved(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    torch.save([torch.ones(100), torch.ones(50)], file, _use_new_zipfile_serialization=False)
    data = file.read_bytes()
    assert len(load(data, legacy=True)) == 2
    for missing, told in ((17, "declare more bytes than the file has"), (16, "is cut short")):
        with pytest.raises(CorruptedError, match=told):
            load(data[:-missing], legacy=True)


def test_damage_is_found(tmp_path: Path) -> None:
    file = tmp_path / "x.pt"
    weights = torch.arange(64.0)
    torch.save({"weights": weights}, file)
    data = file.read_bytes()
    flipped = bytearray(data)
    flipped[data.index(weights.numpy().tobytes()) + 5] ^= 1
    with pytest.raises(CorruptedError, match="does not match its checksum"):
        load(bytes(flipped))
    for damaged in (data[:-30], data[100:], b"", b"PK", b"hello" * 99):
        for legacy in (False, True):
            with pytest.raises(CorruptedError):
                load(damaged, legacy=legacy)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "missing.pt")


class Plain(torch_pickle.Attributes):
    """A stand-in for the class of somebody else."""


def read(data: bytes) -> Any:
    """Read a pickle that may make a `Plain` by the name a.B; a persistent id stands for itself."""
    return torch_pickle.read(data, {"a.B": Plain}, lambda reference: reference)


@pytest.mark.parametrize(("protocol", "last"), [(2, "x"), (4, b"x")])
def test_what_a_pickle_holds_is_read_as_it_was_written(protocol: int, last: str | bytes) -> None:
    shared = ["again"]
    value = {1: (), "one": (1,), 2.5: (1, 2), None: (1, 2, 3), False: (1, 2, 3, 4), last: [shared, shared, {"only": 1}]}
    found = read(pickle.dumps(value, protocol=protocol))
    assert found == value and list(found) == list(value) and found[last][0] is found[last][1]


@pytest.mark.parametrize(
    ("data", "held"),
    [
        (b"]Nq\x07ah\x07a.", [None, None]),
        (b"]\x88r\x00\x01\x00\x00aj\x00\x01\x00\x00a.", [True, True]),
        (b"]N\x94ah\x00a.", [None, None]),
        (b"}NK\x01s.", {None: 1}),
        (b"](K\x01K\x02e.", [1, 2]),
        (b"}(K\x01K\x02K\x03K\x04u.", {1: 2, 3: 4}),
        (b"(K\x01Nt.", (1, None)),
        (b"(K\x01tQ.", (1,)),
        (b"}}K\x01K\x02sb.", {}),
    ],
)
def test_each_instruction_does_what_it_says(data: bytes, held: object) -> None:
    assert read(data) == held


@pytest.mark.parametrize("make", [b"ca\nB\n)R", b"ca\nB\n)\x81", b"\x8c\x01a\x8c\x01B\x93)R"])
def test_a_stand_in_has_the_attributes_that_are_set(make: bytes) -> None:
    assert vars(read(make + b"}\x8c\x01xK\x05sb.")) == {"x": 5}


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"NNa.", "a NoneType where it needs a list"),
        (b"N(Ne.", "a NoneType where it needs a list"),
        (b"NNNs.", "a NoneType where it needs a dict"),
        (b"}]Ns.", "a list where it needs a str"),
        (b"N(NNu.", "a NoneType where it needs a dict"),
        (b"}(]Nu.", "a list where it needs a str"),
        (b"}(Nu.", "shorter"),
        (b"NQ.", "a NoneType where it needs a tuple"),
        (b"N\x8c\x01a\x93.", "a NoneType where it needs a str"),
        (b"\x8c\x01aN\x93.", "a NoneType where it needs a str"),
        (b"ca\nB\nNR.", "a NoneType where it needs a tuple"),
        (b"N)R.", "a NoneType where it needs a Name"),
        (b"ca\nC\n)R.", r"it would call a\.C"),
        (b"ca\nB\n)RNb.", "a NoneType where it needs a dict"),
        (b"]}b.", "a list where it needs a Attributes"),
        (b"ca\nB\n)R}\x8c\x01xca\nB\nsb.", "a Name where it needs a dict"),
        (b"ca\nB\n)Rq\x00}\x8c\x01xh\x00sb.", "holds itself"),
        (b"NN.", "does not end with one value"),
        (b"N(.", "does not end with one value"),
        (b"(NN.", "does not end with one value"),
    ],
)
def test_what_contradicts_itself_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises((torch_pickle.PickleError, ValueError), match=reason):
        read(data)


def test_depth_values_and_instructions_have_exact_bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (torch_pickle.MAX_DEPTH, torch_pickle.MAX_INSTRUCTIONS, torch_pickle.MAX_VALUES) == (
        64,
        2_000_000,
        2_000_000,
    )
    read(b"]" * 64 + b"a" * 63 + b".")
    with pytest.raises(torch_pickle.PickleError, match="nests more than 64"):
        read(b"]" * 65 + b"a" * 64 + b".")
    monkeypatch.setattr(torch_pickle, "MAX_VALUES", 5)
    assert read(b"]N\x85q\x01ah\x01a.") == [(None,), (None,)]
    with pytest.raises(torch_pickle.PickleError, match="again and again"):
        read(b"]N\x85q\x01ah\x01aNa.")
    monkeypatch.setattr(torch_pickle, "MAX_INSTRUCTIONS", 5)
    read(b"(NNt.")
    with pytest.raises(torch_pickle.PickleError, match="more than 5 values"):
        read(b"(NNNt.")
