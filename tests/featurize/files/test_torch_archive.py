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

from headrace.featurize.files import torch_archive
from headrace.featurize.files.torch_archive import CorruptedError, UnsafeError, load, names_in

DTYPES = ("float32", "float16", "bfloat16", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")


class Run:
    """Pickles as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.call


def test_names_in_a_pickle_are_found_however_they_are_written() -> None:
    for protocol in range(5):
        data = pickle.dumps([{"a": "text"}, Run(os.getcwd), struct.Struct], protocol=protocol)
        assert {f"{os.name}.getcwd", "_struct.Struct"} <= set(names_in(data)), protocol


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
