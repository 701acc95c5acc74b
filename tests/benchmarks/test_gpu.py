"""What is measured on a GPU, run on a CPU with small inputs: every line of it but those for CUDA alone."""

from __future__ import annotations

import json
import zipfile
from contextlib import contextmanager
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks.gpu import Bench, Page, Piece, Table, pack, training
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
    steps, projected = training.training_steps(bench, stage="gpt", precision="bf16")
    assert made == [("ours", "bf16", False, ""), ("ours", "bf16", True, ""), ("upstream", "bf16", False, "UPSTREAM")]
    assert [(row[1], row[-1]) for row in steps.rows] == [(2.0, 0.5), (2.0, 0.5), (4.0, 1.0)]
    assert all(len(row) == len(table.head) for table in (steps, projected) for row in table.rows)
    seconds_per_s, minutes = projected.rows[0][1:]
    assert seconds_per_s == pytest.approx(3.2) and minutes == pytest.approx(16 * 60 / 3.2)


def piece(name: str, run=lambda _: []) -> Piece:
    return Piece(name=name, measures=f"what {name} is", run=run)


def test_a_piece_replaces_its_part_of_the_page_and_no_other(tmp_path: Path) -> None:
    page, (one, other) = Page("NVIDIA H100 80GB", False, tmp_path), PIECES[:2]
    for found, value in ((one, 1.0), (other, 2.0), (one, 3.0)):
        page.add(found, [Table(title="figures", head=("value",), rows=[(value,)])], 1.0)
    text = (tmp_path / "gpu-nvidia-h100-80gb.md").read_text()
    assert "| 3 " in text and "| 2 " in text and "| 1 " not in text
    assert text.count("Not measured.") == len(PIECES) - 2


def test_a_piece_that_fails_is_named_and_others_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Bench) -> list[Table]:
        raise RuntimeError("no kernel image is available")

    pieces = (piece("first", fail), piece("second", lambda _: [Table(title="t", head=("a",), rows=[(1,)])]))
    monkeypatch.setattr("benchmarks.gpu.__main__.PIECES", pieces)
    monkeypatch.setattr("benchmarks.gpu.pieces.PIECES", pieces)
    result = CliRunner().invoke(main, ["--device", "cpu", "--small", "--out", str(tmp_path)])
    assert result.exit_code == 1 and "first" in result.output
    assert list(json.loads((tmp_path / "gpu-cpu-small.json").read_text())["pieces"]) == ["second"]


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
