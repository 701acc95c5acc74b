"""Bring Headrace to a machine that has a GPU and torch, and no network.

    python -m benchmarks.gpu.pack make FOLDER [--python 3.12] [--megabytes 55] [--without PACKAGE ...]
    python -m benchmarks.gpu.pack unpack FOLDER --into SITE

`make` downloads the wheels of everything that Headrace needs beside torch, for another Python than this one if need be,
and distributes them over loads that are small enough to travel. `unpack` installs them without pip: then
`PYTHONPATH=SITE:CHECKOUT python3 -m benchmarks.gpu` runs. It needs only Python's own library.
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
THERE = ("torch", "triton", "nvidia", "cuda")
"""First words of packages that come with torch, or that are too large to travel."""
PACKAGES = ("store", "featurize", "train", "cli")
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in (28, 27, 17, 12, 5)] + ["manylinux2014_x86_64"]
EXTRAS = ("networks", "metrics")
TOOLS = ("pytest",)


def requirements() -> list[str]:
    """What Headrace needs, and its tests on a device."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    found = [*project["dependencies"], *(one for extra in EXTRAS for one in project["optional-dependencies"][extra])]
    return [*found, *TOOLS]


def name_of(requirement: str) -> str:
    """The package of a requirement or of a wheel's file name, normalised."""
    first = re.match(r"[A-Za-z0-9._-]+?(?=-\d|[^A-Za-z0-9._-]|$)", requirement)
    assert first, requirement
    return re.sub(r"[-_.]+", "-", first[0]).lower()


def download(folder: Path, python: str, without: Sequence[str]) -> list[Path]:
    """Download wheels into a folder. Returns those that are to travel."""
    options = [f"--platform={platform}" for platform in PLATFORMS]
    options += [f"--python-version={python}", "--only-binary=:all:", f"--constraint={ROOT / 'constraints.txt'}"]
    wanted = [one for one in requirements() if not name_of(one).startswith(tuple(without))]
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", f"--dest={folder}", *options, *wanted], check=True
    )
    return [path for path in folder.glob("*.whl") if not name_of(path.name).startswith(tuple(without))]


def loads(wheels: Iterable[Path], size: int) -> list[list[Path]]:
    """Distribute wheels over as few loads as first fit, largest first, makes.

    Raises:
        ValueError: one is larger than a load.
    """
    made: list[list[Path]] = []
    for wheel in sorted(wheels, key=lambda path: (-path.stat().st_size, path.name)):
        if wheel.stat().st_size > size:
            raise ValueError(f"{wheel.name} has {wheel.stat().st_size / 1e6:.0f} MB, more than a load: leave it out")
        for load in made:
            if sum(path.stat().st_size for path in load) + wheel.stat().st_size <= size:
                load.append(wheel)
                break
        else:
            made.append([wheel])
    return made


def make(folder: Path, python: str, megabytes: int, without: Sequence[str]) -> list[Path]:
    """Write the loads, load-1.tar and so on. Returns them."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    with tempfile.TemporaryDirectory() as downloads:
        for number, load in enumerate(loads(download(Path(downloads), python, without), megabytes * 10**6), 1):
            written.append(folder / f"load-{number}.tar")
            with tarfile.open(written[-1], "w") as archive:
                for wheel in load:
                    archive.add(wheel, wheel.name)
    return written


def unpack(folder: Path, site: Path) -> int:
    """Unpack all loads into a folder, and give the checkout the name that it is imported by. Returns the wheels."""
    count = 0
    for load in sorted(folder.glob("load-*.tar")):
        with tarfile.open(load) as archive, tempfile.TemporaryDirectory() as wheels:
            archive.extraction_filter = getattr(tarfile, "data_filter", None)  # Python before 3.11.4 has none
            archive.extractall(wheels)
            for wheel in Path(wheels).glob("*.whl"):
                with zipfile.ZipFile(wheel) as opened:
                    opened.extractall(site)
                count += 1
    (site / "headrace").mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        link = site / "headrace" / package
        if not link.is_symlink():
            os.symlink(ROOT / package, link)
    return count


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    commands = parser.add_subparsers(required=True, dest="command")
    making, unpacking = commands.add_parser("make"), commands.add_parser("unpack")
    for command in (making, unpacking):
        command.add_argument("folder", type=Path)
    making.add_argument("--python", default="3.12")
    making.add_argument("--megabytes", type=int, default=55)
    making.add_argument("--without", nargs="*", default=THERE, help="First words of packages that are there.")
    unpacking.add_argument("--into", type=Path, required=True)
    given = parser.parse_args(words)
    if given.command == "make":
        for load in make(given.folder, given.python, given.megabytes, given.without):
            print(f"{load}: {load.stat().st_size / 1e6:.0f} MB")
    else:
        print(f"{unpack(given.folder, given.into)} wheels in {given.into}")


if __name__ == "__main__":
    main()
