"""Libraries keep what they run later where nobody else can write, and tell nobody what they are used for."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from headrace.store import library_settings
from headrace.store.library_settings import keep_compiled_kernels_private, private_cache


def mode(path: Path) -> int:
    return path.stat().st_mode & 0o777


@pytest.fixture
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    return tmp_path / "caches"


def test_a_cache_is_for_its_user_alone(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert private_cache("torch") == private_cache("torch") == caches / "headrace" / "torch"
    assert [mode(path) for path in (caches, caches / "headrace", caches / "headrace/torch")] == [0o700] * 3
    (caches / "headrace").chmod(0o755)  # others could read
    assert private_cache("torch") == caches / "headrace/torch" and mode(caches / "headrace") == 0o700
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    monkeypatch.setenv("HOME", str(caches))
    assert private_cache("torch") == caches / ".cache/headrace/torch"


def writable_by_others(folder: Path) -> None:
    folder.chmod(0o720)


def of_another_user(folder: Path) -> None:
    if os.getuid():
        pytest.skip("only root can give a folder away")
    os.chown(folder, 65534, 65534)


def a_link(folder: Path) -> None:
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to("elsewhere")


def a_file(folder: Path) -> None:
    (folder / "torch").rmdir() if (folder / "torch").exists() else None
    folder.rmdir()
    folder.touch()


@pytest.mark.parametrize("make", [writable_by_others, of_another_user, a_link, a_file])
@pytest.mark.parametrize("name", ["headrace", "headrace/torch"])
def test_a_cache_that_others_made_is_not_used(make: object, name: str, caches: Path) -> None:
    private_cache("torch")
    make(caches / name)  # type: ignore[operator]
    found = private_cache("torch")
    assert caches not in found.parents and found.is_dir() and mode(found) == 0o700
    found.rmdir()


def test_kernels_are_compiled_into_a_private_cache(caches: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    keep_compiled_kernels_private()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == str(caches / "headrace/torch")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "mine")
    keep_compiled_kernels_private()
    assert os.environ["TORCHINDUCTOR_CACHE_DIR"] == "mine"


def test_onnxruntime_tells_nobody_of_its_use(tmp_path: Path) -> None:
    """It numbers the machine in a file of the user's home, and sends what it does to its maker."""
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")
    script = (
        "import sys; from headrace.featurize.quality import dnsmos\n"
        "try: dnsmos._session(sys.argv[1])\nexcept Exception: pass\nassert 'onnxruntime' in sys.modules"
    )
    environment = os.environ | {"HOME": str(tmp_path), "XDG_CACHE_HOME": str(tmp_path / "caches")}
    environment.pop("ORT_DISABLE_TELEMETRY", None)
    command = [sys.executable, "-c", script, "sig_bak_ovr"]
    subprocess.run(command, env=environment, check=True, timeout=60)
    assert not list(tmp_path.rglob("*onnx*"))


def test_whoever_imports_onnxruntime_quiets_it_first() -> None:
    knowing = 0
    for path in (Path(library_settings.__file__).parent.parent / "featurize").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        if found := re.search(r"^ +(?:import|from) onnxruntime", text, re.MULTILINE):
            knowing += 1
            assert "    quiet_onnxruntime()\n" in text[: found.start()], path
    assert knowing == 3
