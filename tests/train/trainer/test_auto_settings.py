"""What a run chooses by itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from headrace.train.config import RunConfig
from headrace.train.trainer import auto_settings
from tests.helpers.training_store import build


def test_reading_follows_what_the_store_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mapped, features = build(tmp_path / "mapped", frames=(20, 30)), ("wave", "mfcc")
    packed = build(tmp_path / "packed", frames=(20, 30), compression="zstd")
    monkeypatch.setattr(auto_settings.os, "cpu_count", lambda: 3)
    assert auto_settings.choose_reading(mapped, features, 0)[:3] == (1, 4, 1)
    assert auto_settings.choose_reading(packed, features, 0)[:3] == (3, 6, 1), "its chunks stay in memory"
    monkeypatch.setattr(auto_settings, "CACHE_BYTES", 50 * (640 * 2 + 20 * 2) - 1)
    large = auto_settings.choose_reading(packed, features, 0)
    assert large[:3] == (3, 6, 64) and "it is compressed, and its chunks do not fit into memory" in large.reason
    assert auto_settings.choose_reading(packed, features, 5).chunk_locality == 5
    assert auto_settings.choose_reading(mapped, features, 5).chunk_locality == 5
    monkeypatch.setattr(type(packed), "is_remote", property(lambda self: True))
    assert auto_settings.choose_reading(packed, features, 0)[:3] == (8, 16, 64)


def test_a_run_that_did_not_record_its_locality_keeps_its_order(tmp_path: Path) -> None:
    config = RunConfig.from_options(store=tmp_path / "store", out=tmp_path / "run")
    recorded = config.to_json()
    assert RunConfig.from_json(recorded).data.chunk_locality == 0
    del recorded["data"]["chunk_locality"]
    assert RunConfig.from_json(recorded).data.chunk_locality == 1
