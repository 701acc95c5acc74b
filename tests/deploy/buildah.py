"""Images that are built here with buildah, from stand-ins for published base images: no registry is asked.

It needs Debian's packages buildah and debootstrap, and root.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import distribution
from pathlib import Path

PROGRAMS = ("buildah", "debootstrap")
PYTHON_BASE, TORCH_BASE = "docker.io/library/python:3.11-slim", "nvcr.io/nvidia/pytorch:26.03-py3"
TORCH_NEEDS = ("filelock", "fsspec", "jinja2", "markupsafe", "mpmath", "networkx", "sympy", "typing-extensions")
CUDA_LIBRARIES = {"cu13", "cudnn", "cusparselt", "nccl", "nvshmem"}
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")


def missing() -> str:
    """Return why no image can be built here; empty if one can be."""
    if lacking := [name for name in PROGRAMS if shutil.which(name) is None]:
        return f"there is no {', '.join(lacking)}"
    if os.geteuid():
        return "buildah is root here"
    return "" if sys.version_info[:2] == (3, 11) else "the stand-in has Debian's Python 3.11, which torch must fit"


@dataclass(frozen=True)
class Images:
    """Images in a folder of their own."""

    folder: Path

    def call(self, command: str, *words: object, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command of buildah."""
        storage = ("--root", self.folder / "storage", "--runroot", self.folder / "run")
        (self.folder / "temporary").mkdir(exist_ok=True)
        done = subprocess.run(
            ["buildah", *map(str, (*storage, command, *words))],
            env={**os.environ, "BUILDAH_ISOLATION": "chroot", "TMPDIR": str(self.folder / "temporary")},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        assert not check or done.returncode == 0, done.stdout[-8000:]
        return done

    def from_folder(self, name: str, folder: Path, base: str = "scratch", **variables: str) -> None:
        """Make an image of a folder's content, on top of another image.

        Args:
            variables: of the environment.
        """
        container = self.call("from", "--pull-never", base).stdout.strip()
        self.call("add", "--quiet", container, folder, "/")
        self.call("config", *(f"--env={key}={value}" for key, value in variables.items()), container)
        self.call("commit", "--quiet", "--rm", container, name)

    def build(self, name: str, source: Path, check: bool = True, **arguments: str) -> str:
        """Build deploy/container/Dockerfile and return what was printed.

        pip gets the certificates of this machine, by the secret and the mount that the Dockerfile allows for.

        Args:
            source: the checkout.
            arguments: of the build.
        """
        pip = self.folder / "pip.conf"
        pip.write_text("[global]\ncert = /etc/ssl/certs/of-the-host.crt\ntimeout = 180\n")
        return self.call(
            "bud",
            "--pull-never",
            "--format=docker",
            f"--file={source}/deploy/container/Dockerfile",
            f"--tag={name}",
            f"--secret=id=pip,src={pip}",
            f"--volume={CERTIFICATES}:/etc/ssl/certs/of-the-host.crt:ro",
            *(f"--build-arg={key}={value}" for key, value in arguments.items()),
            source,
            check=check,
        ).stdout

    def run(self, name: str, *words: object, user: str = "", mounts: Mapping[Path, str] = {}) -> str:
        """Run a command in a new container of an image, and return what it prints."""
        container = self.call("from", "--pull-never", name).stdout.strip()
        options = [f"--volume={source}:{target}:ro" for source, target in mounts.items()]
        options += [f"--user={user}"] if user else []
        try:
            return self.call("run", *options, container, "--", *words).stdout
        finally:
            self.call("rm", container)


def python_base(images: Images) -> str:
    """Make a stand-in for an image that has Python and nothing else. Returns its name."""
    root = images.folder / "debian"
    packages = "python3,python3-venv,ca-certificates"
    command = ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(root)]
    subprocess.run(command, check=True, capture_output=True)
    images.from_folder(PYTHON_BASE, root, LANG="C.UTF-8")
    shutil.rmtree(root)
    return PYTHON_BASE


def torch_base(images: Images, base: str, version: str) -> str:
    """Make a stand-in for NVIDIA's PyTorch image, of this environment's torch. Returns its name.

    As there, torch lies in the system's Python, requires no wheels of CUDA, and is pinned; torchaudio is not there.

    Args:
        version: that torch claims to have.
    """
    tree = images.folder / "torch"
    packages = tree / "usr/local/lib/python3.11/dist-packages"
    (tree / "etc/pip").mkdir(parents=True)
    (tree / "etc/pip/constraint.txt").write_text(f"torch=={version}\n")
    for name in ("torch", *TORCH_NEEDS):
        for path in sorted({path.parts[0] for path in distribution(name).files or ()} - {"..", "__pycache__"}):
            _link(Path(str(distribution(name).locate_file(path))), packages / path)
    cuda = Path(str(distribution("torch").locate_file("nvidia")))
    for path in sorted(cuda.iterdir()):
        if path.name in CUDA_LIBRARIES:
            _link(path, packages / "nvidia" / path.name)
    _claim_version(packages, distribution("torch").version, version)
    images.from_folder(TORCH_BASE, tree, base, PIP_CONSTRAINT="/etc/pip/constraint.txt")
    shutil.rmtree(tree)
    return TORCH_BASE


def _link(source: Path, target: Path) -> None:
    """Copy a file or a folder by hard links, where the file system allows it."""

    def link(one: str, other: str) -> None:
        try:
            os.link(one, other)
        except OSError:
            shutil.copy2(one, other)

    target.parent.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target, copy_function=link, ignore=shutil.ignore_patterns("__pycache__"))
    else:
        link(str(source), str(target))


def _claim_version(packages: Path, old: str, new: str) -> None:
    """Give torch another version, and take the wheels of CUDA out of its requirements."""
    information = (packages / f"torch-{old}.dist-info").rename(packages / f"torch-{new}.dist-info")
    metadata = (information / "METADATA").read_text(encoding="utf-8")
    metadata = re.sub(r"(?m)^Version: .*$", f"Version: {new}", metadata)
    metadata = re.sub(r"(?m)^Requires-Dist: (nvidia|cuda|triton).*\n", "", metadata)
    _replace(information / "METADATA", metadata)
    module = packages / "torch/version.py"
    _replace(module, re.sub(r"(?m)^__version__ = .*$", f"__version__ = {new!r}", module.read_text(encoding="utf-8")))


def _replace(path: Path, text: str) -> None:
    """Write a new file in place of a link, and so leave the file that it links to as it is."""
    path.unlink()
    path.write_text(text, encoding="utf-8")
