"""Files that lie: every kind ends as features or as a reject that says why, and costs no other file anything."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import soundfile
from click.testing import CliRunner

from headrace import store
from headrace.cli.featurize import main as featurize
from headrace.featurize.audio import decode_pool, ffmpeg, recording
from headrace.featurize.audio.decode import Decoded, waveform
from headrace.featurize.audio.recording import DEFAULT_LIMITS, Limits
from headrace.featurize.corpus import scanner
from headrace.featurize.pipeline.presets import PRESETS
from headrace.store.errors import Rejected
from headrace.store.integrity.verify import verify
from headrace.store.schema import Reject, Utterance
from tests.helpers import malformed_files
from tests.helpers.commands import part_bytes
from tests.helpers.corpora import buzz, make_tree

PRESET = PRESETS["gpt-sovits-v2"]
RATE = PRESET.spectral.sample_rate
DAMAGED = 200


@pytest.fixture(scope="module", autouse=True)
def with_ffmpeg(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """An ffmpeg by its name on the PATH, of this process and of all that it starts, if there is one at all."""
    program, before = malformed_files.ffmpeg(), os.environ["PATH"]
    if program is not None:
        folder = tmp_path_factory.mktemp("bin")
        (folder / "ffmpeg").symlink_to(program)
        os.environ["PATH"] = f"{folder}{os.pathsep}{before}"
    ffmpeg.executable.cache_clear()
    yield
    os.environ["PATH"] = before
    ffmpeg.executable.cache_clear()


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, malformed_files.Outcome]]:
    """The corpus of lies, and what must become of each recording."""
    root = tmp_path_factory.mktemp("lies")
    return root, malformed_files.make_lies(root)


def check(id: str, outcome: malformed_files.Outcome, found: float | Reject) -> None:
    """
    Args:
        found: seconds stored, or the reject.
    """
    if isinstance(found, Reject):
        assert re.fullmatch(outcome.stage, found.stage), (id, found)
        assert re.search(outcome.reason, found.reason), (id, found)
        assert "\n" not in found.reason and "0x" not in found.reason and "/fd/" not in found.reason
    else:
        assert not outcome.stage and found == pytest.approx(outcome.seconds, abs=0.06), (id, found)


def rejected(out: Path) -> list[Reject]:
    """What a store lists."""
    return [Reject(**json.loads(line)) for line in (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines()]


def scanned(root: Path, **options: object) -> tuple[list[Utterance], dict[str, Reject]]:
    found = list(scanner.scan(root, "tree", **options))  # type: ignore[arg-type]
    return [item for item in found if isinstance(item, Utterance)], {r.id: r for r in found if isinstance(r, Reject)}


def decoded(
    root: Path, utterances: list[Utterance], **options: object
) -> list[tuple[Utterance, np.ndarray | Rejected]]:
    how: dict[str, object] = {"isolated": False, "threads": 1, "limits": DEFAULT_LIMITS}
    made = decode_pool.decode_utterances(root, utterances, RATE, PRESET.level, **how | options)  # type: ignore[arg-type]
    return [(utterance, each if isinstance(each, Rejected) else each.wave) for utterance, each in made]


def test_every_kind_is_made(expected: tuple[Path, dict[str, malformed_files.Outcome]]) -> None:
    assert len(expected[1]) > 110 and {o.stage for o in expected[1].values()} >= {"", "scan", "decode", "features"}


@pytest.mark.parametrize("isolated, threads", [(False, 1), (False, 3), (True, 1)])
def test_every_kind_decodes_alike(
    expected: tuple[Path, dict[str, malformed_files.Outcome]], isolated: bool, threads: int
) -> None:
    root, outcomes = expected
    utterances, rejects = scanned(root)
    alone = dict(decoded(root, utterances))
    assert {u.id for u in utterances} | set(rejects) == set(outcomes)
    for utterance, wave in decoded(root, utterances, isolated=isolated, threads=threads):
        before = alone[utterance]
        if isinstance(wave, Rejected):
            assert isinstance(before, Rejected) and before.args == wave.args
            rejects[utterance.id] = Reject(utterance.id, wave.stage, wave.reason)
        else:
            assert wave.dtype == np.int16 and wave.flags.writeable and np.array_equal(wave, before)
            if outcomes[utterance.id].stage != "features":
                check(utterance.id, outcomes[utterance.id], len(wave) / RATE)
    for id, reject in rejects.items():
        check(id, outcomes[id], reject)


def test_the_whole_list_through_builds_with_one_and_two_workers(
    expected: tuple[Path, dict[str, malformed_files.Outcome]], tmp_path: Path
) -> None:
    """With single bits flipped and ends cut off besides: stored and rejected are all, and the same."""
    root = tmp_path / "corpus"
    shutil.copytree(
        expected[0], root, symlinks=True, ignore=lambda folder, _: ["odd"] if folder == str(expected[0]) else []
    )
    damaged = malformed_files.damaged(DAMAGED)
    for name, content in damaged.items():
        malformed_files.with_text(root / name).write_bytes(content)
    outcomes = {id: outcome for id, outcome in expected[1].items() if not id.startswith("odd/")}
    for workers in (1, 2):
        out = tmp_path / f"STORE{workers}"
        words = ["build", str(root), "--format", "tree", "--out", str(out), "--workers", str(workers), "--json"]
        options = ("--features", "wave,mel,mfcc", "--part-hours", "0.01", "--max-rejects", "100")
        result = CliRunner().invoke(featurize, [*words, *options])
        assert result.exit_code == 0, result.output
        opened = store.open(out)
        assert not list(verify(out)) and opened.complete
        rejects = {reject.id: reject for reject in rejected(out)}
        assert len(opened) + len(rejects) == len(outcomes) + 2 * DAMAGED == len(set(opened.ids) | set(rejects))
        for id, outcome in outcomes.items():
            stored = id not in rejects and float(opened.frames[opened.find(id)]) * 640 / RATE
            check(id, outcome, stored or rejects[id])
        assert not [id for id in opened.ids if id.startswith("cut/")], "no recording without its end is stored"
    assert part_bytes(tmp_path / "STORE1") == part_bytes(tmp_path / "STORE2")


def test_what_crashes_or_hangs_its_decoder_is_found_and_costs_no_other() -> None:
    names = ["a", "crash", "b", "hang", "fail", "bad", "c", "killed", "d"]
    found = dict(
        decoded(
            Path("/nowhere"),
            [malformed_files.described(name) for name in names],
            isolated=True,
            limits=Limits(hang_timeout_s=1.0),
            decoder=malformed_files.crashing_decoder,
        )
    )
    reasons = {u.id: wave.reason for u, wave in found.items() if isinstance(wave, Rejected)}
    assert reasons == {
        "crash": "its decoder crashes on it (SIGSEGV)",
        "hang": "its decoder takes more than 1 s",
        "fail": "its decoder crashes on it (exit status 9)",
        "bad": "ein schlechter Ton: ♪",
        "killed": "its decoder was killed 3 times: is there too little memory for it?",
    }
    assert [u.id for u in found] == names
    assert all(wave.tolist() == [1] * 10 for wave in found.values() if not isinstance(wave, Rejected))


def test_a_build_survives_what_crashes_its_worker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An ffmpeg that answers the scan, and then takes the process that asked it to decode down with it."""
    corpus = make_tree(tmp_path / "corpus", 6)
    malformed_files.with_text(corpus / "evil.m4a").write_bytes(b"\0\0\0\x1cftypM4A " + bytes(100))
    script = tmp_path / "bin" / "ffmpeg"
    script.parent.mkdir()
    length = "#tb 0: 1/16000\\n#sample_rate 0: 16000\\n0, 0, 0, 16000, 100, 0x0\\n"
    script.write_text(
        f"#!/bin/sh\ncase \"$*\" in *framecrc*) printf '{length}';; *) kill -SEGV $PPID; sleep 9;; esac\n"
    )
    script.chmod(0o755)
    monkeypatch.setenv("PATH", f"{script.parent}{os.pathsep}{os.environ['PATH']}")
    ffmpeg.executable.cache_clear()
    out = tmp_path / "STORE"
    words = ["build", str(corpus), "--out", str(out), "--workers", "1", "--features", "wave", "--part-hours", "1"]
    result = CliRunner().invoke(featurize, words)
    ffmpeg.executable.cache_clear()
    assert result.exit_code == 0, result.output
    (reject,) = (
        Reject(**json.loads(line)) for line in (out / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    )
    assert reject == Reject("evil.m4a", "decode", "its decoder crashes on it (SIGSEGV)")
    assert len(store.open(out)) == 6 and not list(verify(out))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_watchdog_ends_a_process_whose_decoder_hangs(threads: int) -> None:
    code = f"""
from pathlib import Path
from headrace.featurize.audio import decode_pool, recording
from tests.helpers import malformed_files
utterances = [malformed_files.described(name) for name in ("a", "b", "hang")]
limits, decoder = recording.Limits(hang_timeout_s=1.0), malformed_files.crashing_decoder
how = dict(isolated=False, threads={threads}, limits=limits, decoder=decoder)
list(decode_pool.decode_utterances(Path(), utterances, 32_000, "none", **how))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == decode_pool.HANG_EXIT_CODE, done.stderr
    assert done.stderr.count("Decoding hang takes more than 1 s") == 1


def test_the_process_that_decodes_alone_loads_no_torch() -> None:
    code = "import sys, headrace.featurize.audio.subprocess_decoder; "
    code += "print(sorted({'torch', 'zarr', 'dask'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b"[]"


def test_threads_keep_order_and_work_a_bounded_way_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_pool, "MAX_PENDING_SAMPLES", 1000)
    begun: list[int] = []

    def decoder(root: object, utterance: Utterance, *_: object) -> Decoded:
        begun.append(utterance.stop)
        return Decoded(np.zeros(utterance.stop, np.int16))

    lengths = [300, 300, 300, 300, 5000, 10, 400, 5000, 5000, 1]
    utterances = [malformed_files.described(str(n), length) for n, length in enumerate(lengths)]
    taken = 0
    waves = decode_pool.decode_utterances(
        Path(), utterances, RATE, PRESET.level, isolated=False, threads=3, limits=DEFAULT_LIMITS, decoder=decoder
    )
    for number, (utterance, decoded) in enumerate(waves):
        assert isinstance(decoded, Decoded)
        taken += len(decoded.wave)
        assert utterance is utterances[number] and len(decoded.wave) == lengths[number]
        ahead = sum(begun) - taken
        assert ahead <= 1000 or len(begun) == number + 2, "more than that only by one at a time"
    assert sorted(begun) == sorted(lengths)


@pytest.mark.parametrize("how", ["grows", "is touched", "is cut"])
def test_a_file_that_changes_while_it_is_read_is_rejected(tmp_path: Path, how: str) -> None:
    path = tmp_path / "a.wav"
    soundfile.write(path, buzz(6.0, RATE, 0), RATE)
    utterance = malformed_files.described("a.wav", 6 * RATE, size=path.stat().st_size)
    blocks = recording.decode_blocks(tmp_path, utterance, DEFAULT_LIMITS)
    next(blocks)
    with path.open("r+b") as file:
        if how == "grows":
            file.seek(0, os.SEEK_END)
            file.write(bytes(100))
        if how == "is cut":
            file.truncate(utterance.size // 2)
    os.utime(path, ns=(0, 10**18))
    with pytest.raises(Rejected, match=r"changed while it was read|cut short"):
        list(blocks)


def test_a_file_that_changed_since_the_scan_is_rejected(tmp_path: Path) -> None:
    malformed_files.with_text(tmp_path / "a.wav").write_bytes(malformed_files.audio("WAV", "PCM_16"))
    (utterance,), _ = scanned(tmp_path)
    (tmp_path / "a.wav").write_bytes(malformed_files.audio("WAV", "PCM_16", seconds=0.5))
    with pytest.raises(Rejected, match=r"bytes and had .* when it was scanned"):
        waveform(tmp_path, utterance, RATE, "none")
    (tmp_path / "a.wav").unlink()
    os.mkfifo(tmp_path / "a.wav")
    with pytest.raises(Rejected, match="not a regular file"):
        waveform(tmp_path, utterance, RATE, "none")


def test_what_is_longer_than_allowed_is_rejected_by_header_and_by_content(tmp_path: Path) -> None:
    """An MP3 without an information frame does not say how long it is; what decodes to more than is allowed stops."""
    contents = malformed_files.wav_files() | malformed_files.mp3_files()
    for name in ("s16.wav", "plain.mp3", "xing-too-few.mp3"):
        malformed_files.with_text(tmp_path / name).write_bytes(contents[name][0])
    utterances, rejects = scanned(tmp_path, limits=Limits(max_duration_s=0.3))
    assert set(rejects) == {"s16.wav", "plain.mp3"}
    assert all("--max-duration" in reject.reason for reject in rejects.values())
    (lying,) = utterances
    assert lying.seconds < 0.3
    with pytest.raises(Rejected, match="longer than 0 s"):
        waveform(tmp_path, lying, RATE, "none", Limits(max_duration_s=0.3))


def test_without_ffmpeg_a_reject_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ffmpeg, "executable", lambda: None)
    for head in (b"\0\0\0\x1cftypM4A ", b"\x1a\x45\xdf\xa3", b"#!AMR\n", b"\xff\xf1\x50\x80"):
        malformed_files.with_text(tmp_path / "a.m4a").write_bytes(head + bytes(100))
        reject = scanned(tmp_path)[1]["a.m4a"]
        assert reject.stage == "scan" and "only ffmpeg reads it, and none is installed" in reject.reason


@pytest.mark.skipif(malformed_files.ffmpeg() is None, reason="no ffmpeg here")
def test_a_segment_through_ffmpeg_is_its_samples(tmp_path: Path) -> None:
    (tmp_path / "a.m4a").write_bytes(malformed_files.converted("ipod"))
    size = (tmp_path / "a.m4a").stat().st_size
    whole = waveform(
        tmp_path, malformed_files.described("a.m4a", 6400, malformed_files.RATE, size), malformed_files.RATE, "none"
    )
    fields = {"audio": "a.m4a", "start": 1600, "stop": 4800, "sample_rate": malformed_files.RATE, "size": size}
    segment = Utterance(id="a.m4a#1600-4800", speaker="", language="en", text="", **fields)  # type: ignore[arg-type]
    assert np.array_equal(waveform(tmp_path, segment, malformed_files.RATE, "none"), whole[1600:4800])


@pytest.mark.skipif(malformed_files.ffmpeg() is None, reason="no ffmpeg here")
def test_an_ffmpeg_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = tmp_path / "ffmpeg"
    script.write_text("#!/bin/sh\nexec sleep 600\n")
    script.chmod(0o755)
    monkeypatch.setattr(ffmpeg, "executable", lambda: str(script))
    monkeypatch.setattr(ffmpeg, "PROBE_TIMEOUT_S", 0.5)
    malformed_files.with_text(tmp_path / "a.m4a").write_bytes(b"\0\0\0\x1cftypM4A ")
    assert "ffmpeg takes more than 0 s" in scanned(tmp_path)[1]["a.m4a"].reason


def test_paths_deeper_than_the_system_takes_are_rejected(tmp_path: Path) -> None:
    malformed_files.with_text(tmp_path / "a.wav").write_bytes(malformed_files.audio("WAV", "PCM_16"))
    folder = os.open(tmp_path, os.O_RDONLY)
    for _ in range(30):  # of 200 characters each; a path has at most 4096
        os.mkdir("d" * 200, dir_fd=folder)
        below = os.open("d" * 200, os.O_RDONLY, dir_fd=folder)
        os.close(folder)
        folder = below
    os.close(folder)
    utterances, rejects = scanned(tmp_path)
    (reject,) = rejects.values()
    assert [u.id for u in utterances] == ["a.wav"] and "File name too long" in reject.reason
    (tmp_path / "c.list").write_text("x" * 100_000 + ".wav|a|EN|x\na.wav|a|EN|x\na.wav|a|EN|y\n")
    found = list(scanner.scan(tmp_path / "c.list"))
    reasons = [item.reason for item in found if isinstance(item, Reject)]
    assert "File name too long" in reasons[0] and "second time" in reasons[1]
    shutil.rmtree(tmp_path / ("d" * 200))


DECODE = f"""
import resource, sys
from pathlib import Path
from headrace.featurize.audio.decode import waveform
from tests.helpers import malformed_files
folder = Path(sys.argv[1])
utterance = malformed_files.described("a.wav", 3600 * 44_100, 44_100, (folder / "a.wav").stat().st_size)
print(len(waveform(folder, utterance, {RATE}, "gpt-sovits")), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


@pytest.mark.soak
def test_an_hour_of_stereo_takes_less_than_a_gigabyte(tmp_path: Path) -> None:
    second = np.random.default_rng(0).integers(-3000, 3000, (44_100, 2)).astype(np.int16)
    with soundfile.SoundFile(tmp_path / "a.wav", "w", 44_100, 2) as file:
        for _ in range(3600):
            file.write(second)
    command = [sys.executable, "-c", DECODE, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[3])
    assert done.returncode == 0, done.stderr
    samples, kilobytes = map(int, done.stdout.split())
    assert samples == 3600 * RATE and kilobytes < 1_000_000
