"""Files of `torch.save` as an attacker writes them: pickles instruction by instruction, in archives that are intact."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence


def name(full: str) -> bytes:
    """Return the instruction that pushes a function or class."""
    module, _, attribute = full.rpartition(".")
    return f"c{module}\n{attribute}\n".encode()


def text(value: str) -> bytes:
    """Return the instruction that pushes a string."""
    data = value.encode()
    return b"X" + len(data).to_bytes(4, "little") + data


def integer(value: int) -> bytes:
    """Return the instruction that pushes a number."""
    data = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(data)]) + data


def tensor(
    key: str = "0",
    elements: int = 4,
    offset: int = 0,
    size: Sequence[int] = (4,),
    stride: Sequence[int] = (1,),
    kind: str = "Float",
) -> bytes:
    """Return the instructions that push a tensor, a view of a storage."""
    storage = (
        b"(" + text("storage") + name(f"torch.{kind}Storage") + text(key) + text("cpu") + integer(elements) + b"tQ"
    )
    shape = b"".join(b"(" + b"".join(map(integer, one)) + b"t" for one in (size, stride))
    hooks = name("collections.OrderedDict") + b")R"
    return name("torch._utils._rebuild_tensor_v2") + b"(" + storage + integer(offset) + shape + b"\x89" + hooks + b"tR"


def archive(
    pickle: bytes, records: Mapping[str, bytes] | None = None, *, compression: int = zipfile.ZIP_STORED
) -> bytes:
    """Return an archive of a pickle, without its protocol and end, and of storages; one of 16 bytes by default."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", compression) as file:
        file.writestr("x/data.pkl", b"\x80\x02" + pickle + b".")
        for key, content in ({"0": bytes(16)} if records is None else records).items():
            file.writestr(f"x/data/{key}", content)
    return data.getvalue()
