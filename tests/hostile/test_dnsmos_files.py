"""Networks of DNSMOS that are not what was installed."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.featurize.quality import dnsmos
from headrace.store.errors import UsageError


@pytest.mark.parametrize("data", [b"", b"\x08\x07", b"hello" * 99])
def test_a_damaged_network_is_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    pytest.importorskip("onnxruntime")
    (tmp_path / "x.onnx").write_bytes(data)
    monkeypatch.setattr(dnsmos, "model_file", lambda name: tmp_path / name)
    with pytest.raises(UsageError, match=r"x\.onnx is damaged"):
        dnsmos._session("x.onnx")
