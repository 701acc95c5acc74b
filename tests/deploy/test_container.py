"""The container: its recipe and health check, and, as a soak, images that are built and used."""

from __future__ import annotations

import contextlib
import http.server
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.deploy.buildah import TORCH_BASE, Images, missing, python_base, torch_base

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy/container"


@pytest.mark.skipif(shutil.which("hadolint", path=str(Path(sys.executable).parent)) is None, reason="no hadolint here")
def test_hadolint_has_no_remarks() -> None:
    command = [Path(sys.executable).parent / "hadolint", "--failure-threshold=style", FOLDER / "Dockerfile"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_is_installed_is_sent_to_the_builder() -> None:
    ignore = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    sent = {line.removeprefix("!") for line in ignore if line.startswith("!")}
    script = (FOLDER / "install.sh").read_text(encoding="utf-8")
    (copied,) = re.findall(r'"\$source"/\{(.*)\}', script)
    others = set(re.findall(r'"\$source/([\w./-]+)"', script))
    assert {*copied.split(","), "constraints.txt", "deploy/container"} == sent
    assert {name for name in others if not name.startswith("deploy/container/")} == {"constraints.txt"}
    assert all((ROOT / name).exists() for name in sent | others)


@contextlib.contextmanager
def process(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that does nothing, with these words in its command."""
    started = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", *words])
    try:
        yield started
    finally:
        started.kill()
        started.wait()


def health(number: int) -> tuple[int, str]:
    """Return exit code and message of the health check of a process."""
    command = [sys.executable, FOLDER / "headrace-health", str(number)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, done.stderr.strip()


@pytest.mark.skipif(sys.platform != "linux", reason="there is no /proc")
class TestHealth:
    def test_a_process_that_runs_is_healthy_and_one_that_is_stopped_is_not(self) -> None:
        with process("train", "run") as one:
            assert health(one.pid) == (0, "")
            os.kill(one.pid, signal.SIGSTOP)
            while "T (stopped)" not in Path(f"/proc/{one.pid}/status").read_text():
                time.sleep(0.01)
            assert health(one.pid) == (1, "the process is in state T")

    @pytest.mark.parametrize("form", [["--metrics-port", "{}"], ["--metrics-port=1", "--metrics-port={}"]])
    def test_a_port_of_metrics_must_answer(self, form: list[str]) -> None:
        asked = []

        class Page(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                asked.append(self.path)
                self.send_response(200)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                """Say nothing."""

        with http.server.HTTPServer(("127.0.0.1", 0), Page) as server:
            port = server.server_port
            threading.Thread(target=server.serve_forever, daemon=True).start()
            with process(*(word.format(port) for word in form)) as one:
                assert health(one.pid) == (0, "")
                server.shutdown()
                server.server_close()
                code, message = health(one.pid)
        assert asked == ["/metrics"]
        assert code == 1
        assert message.startswith(f"port {port} does not answer: ")


@pytest.fixture(scope="module")
def images() -> Iterator[Images]:
    if reason := missing():
        pytest.skip(reason)
    with tempfile.TemporaryDirectory(dir="/tmp", prefix="images") as folder:
        built = Images(Path(folder))
        python_base(built)
        yield built
        built.call("rm", "--all")
        built.call("rmi", "--all", "--force")


IN_CONTAINER = """
import importlib.util, os, sys, torch
import headrace.store
print("user", os.getuid(), os.getgid(), os.access(os.environ["HOME"], os.W_OK))
print("python", sys.executable)
print("torch", torch.__version__, torch.__file__)
print("torchaudio", importlib.util.find_spec("torchaudio") is not None)
"""


def check_demo(images: Images, name: str) -> None:
    """Run the steps of `make demo` in an image, as its user and as another one."""
    mounts = {ROOT / "benchmarks": "/demo/benchmarks"}
    script = "cd && PYTHONPATH=/demo python -m benchmarks.demo demo --minutes 1 --steps 4 --device cpu"
    for user in ("", "4242"):
        printed = images.run(name, "bash", "-c", script, user=user, mounts=mounts)
        assert "no problems" in " ".join(printed.split()), printed[-4000:]
        assert "training: seconds per step" in printed, printed[-4000:]
        assert images.run(name, "headrace-health", "1", user=user) == ""


@pytest.mark.soak
def test_an_image_on_plain_python_runs_the_demo(images: Images) -> None:
    images.build("headrace:python", ROOT, BASE="docker.io/library/python:3.11-slim")
    said = images.run("headrace:python", "python", "-c", IN_CONTAINER)
    assert "user 10001 0 True" in said
    assert "python /opt/headrace/bin/python" in said
    assert "torchaudio True" in said
    check_demo(images, "headrace:python")


@pytest.mark.soak
def test_an_image_on_one_with_torch_keeps_it_and_runs_the_demo_without_torchaudio(images: Images) -> None:
    torch_base(images, "docker.io/library/python:3.11-slim", "2.11.0a0+nv26.03")
    images.build("headrace:torch", ROOT, BASE=TORCH_BASE)
    said = images.run("headrace:torch", "python", "-c", IN_CONTAINER)
    assert "user 10001 0 True" in said
    assert "torch 2.11.0a0+nv26.03 /usr/local/lib/python3.11/dist-packages/torch/__init__.py" in said
    assert "torchaudio False" in said
    check_demo(images, "headrace:torch")


@pytest.mark.soak
def test_no_image_is_built_that_would_replace_the_torch_of_its_base(images: Images) -> None:
    torch_base(images, "docker.io/library/python:3.11-slim", "2.99.0a0+nv99.01")
    said = images.build("headrace:replaced", ROOT, check=False, BASE=TORCH_BASE)
    assert "headrace:replaced" not in images.call("images").stdout
    assert "torch==2.99.0a0+nv99.01" in said
