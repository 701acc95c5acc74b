"""Files of NumPy that promise more than they have, or hold something else than numbers."""

from __future__ import annotations

import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headrace.store.errors import UsageError
from headrace.train.inference import npy_file
from headrace.train.inference.npy_file import read_npy
from tests.helpers.fuzzing import FUZZ_COUNTS, fuzz

MATRIX = np.arange(6.0).reshape(2, 3)


def saved(array: Any) -> bytes:
    data = io.BytesIO()
    np.save(data, array, allow_pickle=True)
    return data.getvalue()


def with_shape(shape: bytes) -> bytes:
    """MATRIX under a header that ends with other 24 bytes."""
    return saved(MATRIX).replace(b"(2, 3), }".ljust(24), shape)


@pytest.mark.parametrize("dtype", ["<f4", "<f2", ">f8", "<i2", "|u1", ">i8", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_arrays_of_numbers_are_read(tmp_path: Path, dtype: str, order: Any) -> None:
    for array in (MATRIX, MATRIX[0], MATRIX[0, 0], MATRIX[:, :0]):
        (tmp_path / "x.npy").write_bytes(saved(np.asarray(array, dtype, order=order)))
        assert np.array_equal(read_npy(tmp_path / "x.npy", "--bert"), array)
    for version in ((2, 0), (3, 0)):
        with (tmp_path / "x.npy").open("wb") as file:
            np.lib.format.write_array(file, MATRIX, version)
        assert np.array_equal(read_npy(tmp_path / "x.npy", "--bert"), MATRIX)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (saved(np.array([print], object)), "describes something else"),
        (saved(np.array(["a"])), "describes something else"),
        (saved(np.array([1j])), "describes something else"),
        (saved(np.array([True])), "describes something else"),
        (saved(np.zeros(2, "f4,i4")), "describes something else"),
        (saved(np.array(["2020-01-01"], "datetime64[s]")), "describes something else"),
        (saved(MATRIX)[:-1], "promises 48 bytes, and it has 47"),
        (saved(MATRIX) + b"\0", "promises 48 bytes, and it has 49"),
        (saved(MATRIX)[:60], "describes something else|promises"),
        (with_shape(b"(2, 3000000000000000), }"), "promises 48,000,000,000,000,000"),
        (with_shape(b"(2000000000000000000000)"), "describes something else|promises"),
        (with_shape(b"(-2, -3), }".ljust(24)), "describes something else"),
        (with_shape(b"(2.0, 3), }".ljust(24)), "describes something else"),
        (saved(MATRIX).replace(b"<f8", b"<f3"), "data type"),
        (saved(np.array([np.nan])), "not finite"),
        (saved(np.array([1e300])), "not finite"),
        (b"PK\3\4", "does not begin as one"),
        (b"PK\3\4\5\6" + saved(MATRIX)[6:], "does not begin as one"),
        (saved(MATRIX).replace(b"NUMPY\1", b"NUMPY\4"), "does not begin as one"),
        (b"", "does not begin as one"),
    ],
)  # fmt: skip
def test_others_are_refused_with_a_reason(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "x.npy").write_bytes(data)
    with pytest.raises(UsageError, match=rf"--bert .*x\.npy is no array of numbers in an \.npy file: .*({reason})"):
        read_npy(tmp_path / "x.npy", "--bert")


def test_pipes_and_huge_files_are_not_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with (tmp_path / "huge").open("wb") as file:
        file.truncate(1 << 40)
    for name in ("pipe", "huge"):
        with pytest.raises(UsageError, match="no file of at most"):
            read_npy(tmp_path / name, "--bert")


def test_a_file_of_the_most_bytes_and_dimensions_is_read_and_one_more_is_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (npy_file.MAX_BYTES, npy_file.MAX_DIMENSIONS) == (1 << 30, 8)
    file, one = tmp_path / "x.npy", np.ones(1)
    file.write_bytes(saved(one.reshape((1,) * 8)))
    monkeypatch.setattr(npy_file, "MAX_BYTES", file.stat().st_size)
    assert read_npy(file, "--bert").shape == (1,) * 8
    file.write_bytes(saved(one.reshape((1,) * 8)) + b"x")
    with pytest.raises(UsageError, match="no file of at most"):
        read_npy(file, "--bert")
    file.write_bytes(saved(one.reshape((1,) * 9)))
    with pytest.raises(UsageError, match="its header promises 8 bytes, and it has 8"):
        read_npy(file, "--bert")
    with pytest.raises(UsageError, match=r"Cannot read .*y\.npy: No such file"):
        read_npy(tmp_path / "y.npy", "--bert")


@pytest.mark.parametrize("count", FUZZ_COUNTS)
def test_mutations_of_arrays(tmp_path: Path, count: int) -> None:
    folder = tmp_path / "arrays"
    folder.mkdir()

    def attempt(mutated: bytes) -> None:
        (folder / "x.npy").write_bytes(mutated)
        read_npy(folder / "x.npy", "--speaker-vector")

    tokens = [b"'|O'", b"'<f2'", b"(1000000000000,)", b"(0, 99999999999)", b"True", b"'<U9'", b"[('a', '<f4')]", b"f16"]
    fuzz(attempt, [saved(MATRIX), saved(np.float32(MATRIX).T)], folder=folder, count=count, tokens=tokens)
