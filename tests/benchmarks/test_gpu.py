"""What is measured on a GPU, run on a CPU with small inputs: every line of it but those for CUDA alone."""

from __future__ import annotations

import itertools
import json
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.gpu import Bench, OutOfTime, Page, Piece, Table, limited, pack, training
from benchmarks.gpu.__main__ import main
from benchmarks.gpu.pieces import PIECES
from benchmarks.step_sides import Case

QUICK = ("parity", "featurizing", "store")
LONG = [piece.name for piece in PIECES if piece.name not in QUICK]


def run(folder: Path, *names: str) -> dict[str, list[dict]]:
    """Run pieces on the CPU and return the tables of each."""
    words = ["--device", "cpu", "--small", "--out", str(folder), *(word for name in names for word in ("--only", name))]
    result = CliRunner().invoke(main, words, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    parts = json.loads((folder / "gpu-cpu-small.json").read_text())["pieces"]
    return {name: part["tables"] for name, part in parts.items()}


def check(found: dict[str, list[dict]], names: tuple[str, ...] | list[str]) -> None:
    assert set(found) == set(names)
    for name, tables in found.items():
        assert tables, name
        for table in tables:
            assert all(len(row) == len(table["head"]) for row in table["rows"]), name


def test_a_dry_run_lists_every_piece_and_measures_nothing(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["--dry-run", "--out", str(tmp_path)])
    assert result.exit_code == 0
    assert [line.split()[0] for line in result.output.splitlines()] == [piece.name for piece in PIECES]
    assert not list(tmp_path.iterdir())


def test_without_a_device_the_command_says_how_to_run_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = CliRunner().invoke(main, ["--out", str(tmp_path)])
    assert result.exit_code == 2 and "--device cpu --small" in result.output


@pytest.mark.slow
def test_quick_pieces_run_on_a_cpu(tmp_path: Path) -> None:
    found = run(tmp_path, *QUICK)
    check(found, QUICK)
    agreement = {row[0]: row for row in found["parity"][0]["rows"]}
    assert agreement["torch cuda's code, on a CPU"][2] == "equal"
    assert all(row[-1] > 0 for row in found["store"][0]["rows"])
    assert "# CPU" in (tmp_path / "gpu-cpu-small.md").read_text()


@pytest.mark.soak
@pytest.mark.parametrize("name", LONG)
def test_long_pieces_run_on_a_cpu(tmp_path: Path, name: str) -> None:
    check(run(tmp_path, name), [name])


def test_steps_are_beside_upstreams_and_projected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of sides that are not run: an update of 4 batches of 2 x 0.8 s takes 2 s for ours and 4 s for upstream."""
    made = []

    @contextmanager
    def started(side: str, case: Case):
        made.append((side, case.precision, case.compiled, case.upstream))
        yield {"ours": 2.0, "upstream": 4.0}[side]

    monkeypatch.setattr(training, "started", started)
    monkeypatch.setattr(training, "_measured", lambda seconds, _: (seconds, "", 1 / seconds, 0.5, 1.0))
    bench = Bench(device="cpu", small=True, folder=tmp_path, upstream="UPSTREAM")
    *_, steps, projected = training.training_steps(bench, stage="gpt", precision="bf16")
    ours = ("ours", "bf16", False, "")  # which writes the weights that upstream begins with
    assert made == [ours, ("upstream", "bf16", False, "UPSTREAM"), ours, ("ours", "bf16", True, "")]
    assert [(row[1], row[-1]) for row in steps.rows] == [(4.0, 1.0), (2.0, 0.5), (2.0, 0.5)]
    assert all(len(row) == len(table.head) for table in (steps, projected) for row in table.rows)
    seconds_per_s, minutes = projected.rows[1][1:]
    assert seconds_per_s == pytest.approx(3.2) and minutes == pytest.approx(16 * 60 / 3.2)


def test_on_a_device_steps_are_captured_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []

    @contextmanager
    def started(side: str, case: Case):
        made.append((case.compiled, case.graphs))
        yield 1.0

    monkeypatch.setattr(training, "started", started)
    monkeypatch.setattr(training, "_measured", lambda seconds, _: (seconds, "", 1 / seconds, 0.5, 1.0))
    bench = Bench(device="cuda", small=True, folder=tmp_path)
    *_, steps, _ = training.training_steps(bench, stage="sovits", precision="fp16")
    assert made == [(False, False), (False, True), (True, False), (True, True)]
    assert [row[0] for row in steps.rows] == ["ours", "ours, graphs", "ours, compiled", "ours, compiled, graphs"]


def piece(name: str, run=lambda _: []) -> Piece:
    return Piece(name=name, measures=f"what {name} is", run=run)


def test_a_piece_replaces_its_part_of_the_page_and_no_other(tmp_path: Path) -> None:
    page, (one, other) = Page("NVIDIA H100 80GB", False, tmp_path), PIECES[:2]
    for found, value in ((one, 1.0), (other, 2.0), (one, 3.0)):
        page.add(found, [Table(title="figures", head=("value",), rows=[(value,)])], 1.0)
    text = (tmp_path / "gpu-nvidia-h100-80gb.md").read_text()
    assert "| 3 " in text and "| 2 " in text and "| 1 " not in text
    assert text.count("Not measured.") == len(PIECES) - 2


def table(value: int) -> Table:
    return Table(title="figures", head=("value",), rows=[(value,)])


def failing(_: Bench):
    yield table(1)
    raise RuntimeError("no kernel image is available")


def endless(_: Bench):
    for value in itertools.count(1):
        yield table(value)
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("broken", "why"), [(failing, "it failed (RuntimeError)"), (endless, "it was stopped after 1 s")]
)
def test_a_piece_that_fails_or_takes_too_long_is_named_and_keeps_what_it_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broken, why: str
) -> None:
    pieces = (piece("first", broken), piece("second", lambda _: [table(7)]))
    monkeypatch.setattr("benchmarks.gpu.__main__.PIECES", pieces)
    monkeypatch.setattr("benchmarks.gpu.pieces.PIECES", pieces)
    result = CliRunner().invoke(main, ["--device", "cpu", "--small", "--limit", "1", "--out", str(tmp_path)])
    assert result.exit_code == 1 and "took too long, see above: first" in result.output
    parts = json.loads((tmp_path / "gpu-cpu-small.json").read_text())["pieces"]
    assert {name: part["ended"] for name, part in parts.items()} == {"first": why, "second": ""}
    assert len(parts["first"]["tables"]) == 1 and parts["second"]["tables"][0]["rows"] == [[7]]
    assert (tmp_path / "gpu-cpu-small.md").read_text().count(f"Not all: {why}.") == 1


def test_what_waits_for_another_process_is_stopped_too() -> None:
    start = time.perf_counter()
    with pytest.raises(OutOfTime), limited(0.5):
        subprocess.run([sys.executable, "-c", "import time; time.sleep(60)"], check=True)
    assert time.perf_counter() - start < 30
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def wheel(folder: Path, name: str, size: int) -> Path:
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", b"x" * size)
    return path


def test_loads_hold_every_wheel_once_and_fit(tmp_path: Path) -> None:
    wheels = [wheel(tmp_path, name, size) for name, size in (("a", 900), ("b", 500), ("c", 400), ("d", 100))]
    made = pack.loads(wheels, 1400)
    assert sorted(path for load in made for path in load) == sorted(wheels)
    assert all(sum(path.stat().st_size for path in load) <= 1400 for load in made) and len(made) == 2
    with pytest.raises(ValueError, match="more than a load"):
        pack.loads(wheels, 600)


def test_what_is_packed_is_unpacked_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pack, "download", lambda folder, *_: [wheel(folder, name, 10) for name in ("first", "second")])
    written = pack.make(tmp_path / "loads", "3.12", 1, ())
    assert [path.name for path in written] == ["load-1.tar"]
    for _ in range(2):  # a second time is no error
        assert pack.unpack(tmp_path / "loads", tmp_path / "site") == 2
    assert (tmp_path / "site/first.py").read_text() == "x" * 10
    assert (tmp_path / "site/headrace/store/__init__.py").exists()


@pytest.mark.parametrize(
    ("given", "name"),
    [("nvidia-dali-cuda130>=2,<3; x", "nvidia-dali-cuda130"), ("torch>=2.8", "torch"), ("pytest", "pytest"),
     ("google_crc32c-1.8.0-cp312-cp312-manylinux.whl", "google-crc32c")],
)  # fmt: skip
def test_names_of_packages(given: str, name: str) -> None:
    assert pack.name_of(given) == name


def test_what_travels_needs_no_torch() -> None:
    wanted = {pack.name_of(one) for one in pack.requirements()}
    assert {"zarr", "soundfile", "transformers", "pytest"} <= wanted
    assert {name for name in wanted if name.startswith(pack.THERE)} == {"torch", "nvidia-dali-cuda130", "nvidia-ml-py"}
