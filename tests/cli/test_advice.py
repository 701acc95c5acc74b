"""Commands that messages advise exist, have these options, and lead on from where the message was printed."""

from __future__ import annotations

import ast
import itertools
import json
import re
import shlex
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TypeGuard

import click
import pytest

from headrace import store
from headrace.cli.featurize import main as featurize
from headrace.cli.store import main as store_group
from headrace.cli.train import main as train
from headrace.featurize.exchange import gpt_sovits_dir
from headrace.store.advice import command, first_of, run_repair, run_verify
from headrace.store.errors import DamagedStore, NotAStore
from headrace.store.integrity import repair
from headrace.store.summary import summarize
from tests.helpers import training_store
from tests.helpers.commands import add, build, call, scheduler
from tests.helpers.corpora import make_tree
from tests.helpers.textgrids import write_textgrid

ROOT = Path(__file__).parents[2]
GROUPS = {"featurize": featurize, "store": store_group, "train": train}
PROSE = r"(?:then|or|and|by|with|without|again)\b"
"""Words that end a command in a sentence."""
ADVICE = re.compile(
    rf"\b(featurize|store|train) ([a-z]+)\b((?: +(?!{PROSE})(?:[^\s,;:()`]|[,:](?=\S))+)*)",
)
CALLED = re.compile(r"(?:[Rr]un|by|with|: ?|then) (featurize|store|train) ([a-z]+)")
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]*[a-z0-9](?![\w-])")
OF_OTHERS = {"--help", "--resources", "--format", "--no-deps", "--no-dashboard"}
"""Options of dask, aws and pip."""


def strings() -> Iterator[tuple[str, str]]:
    """Yield the file and the text of every string of the packages but docstrings, with X for what varies."""
    for top in ("store", "featurize", "train", "cli"):
        for path in sorted((ROOT / top).rglob("*.py")):
            tree = ast.parse(path.read_text(encoding="utf-8"))
            prose = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
            parts = {id(part) for node in ast.walk(tree) for part in parts_of(node)}
            for node in ast.walk(tree):
                if id(node) not in prose and id(node) not in parts and (text := text_of(node)):
                    yield path.relative_to(ROOT).as_posix(), text


def parts_of(node: ast.AST) -> list[ast.expr]:
    """Return the parts of a text that is put together, which are no texts of their own."""
    return node.values if isinstance(node, ast.JoinedStr) else node.args if is_command(node) else []


def is_command(node: ast.AST) -> TypeGuard[ast.Call]:
    return isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "command"


def text_of(node: ast.AST) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.FormattedValue):
        return text_of(node.value) or "X"
    if isinstance(node, ast.JoinedStr):
        return "".join(map(text_of, node.values))
    if is_command(node):
        return " ".join(text_of(word) or "X" for word in node.args)
    return ""


TEXTS = sorted(set(strings()))


def parse(words: list[str]) -> None:
    """Parse a command as the command line does, but for the values of its options."""
    group, name, *rest = words
    found = GROUPS[group].commands[name]
    context = click.Context(found, help_option_names=["-h", "--help"])  # click keeps the first ones it is asked with
    found.make_parser(context).parse_args([word.rstrip(".") for word in rest])


def test_what_messages_advise_is_a_command() -> None:
    advised = 0
    for path, text in TEXTS:
        for group, name in CALLED.findall(text):
            assert name in GROUPS[group].commands or group != "featurize", f"{path}: {text!r}"
        for group, name, rest in ADVICE.findall(text):
            if name in GROUPS[group].commands and not text.startswith(("train export of", "store import of")):
                advised += 1
                try:
                    parse([group, name, *rest.split()])
                except click.UsageError as error:
                    pytest.fail(f"{path}: {text!r}: {error}")
    assert advised > 40


def test_options_that_messages_name_exist() -> None:
    params = [p for group in GROUPS.values() for found in group.commands.values() for p in found.params]
    options = {name for param in params for name in (*param.opts, *param.secondary_opts)}
    for path, text in TEXTS:
        unknown = set(OPTION.findall(text)) - options - OF_OTHERS
        assert not unknown, f"{path}: {text!r} names {sorted(unknown)}"


def test_a_command_is_quoted_for_the_shell() -> None:
    text = command("featurize add", Path("my stores/it's"), "f0,align")
    assert shlex.split(text) == ["featurize", "add", "my stores/it's", "f0,align"]
    assert command("featurize build CORPUS --out", "S") == "featurize build CORPUS --out S"


def test_the_first_ids_are_named() -> None:
    assert first_of(["a", "b", "c"]) == "a, b, c"
    assert first_of([*"abcd"]) == "a, b, c and 1 more"


def advised(text: str) -> list[str]:
    """Return the words of the first command in a text."""
    flat = " ".join(text.split())
    found = next(match for match in ADVICE.finditer(flat) if match[2] in GROUPS[match[1]].commands)
    return shlex.split(found[0].rstrip("."))


def follow(text: str, **values: Path) -> None:
    """Run the command that a text advises, with these in place of what it leaves open."""
    group, *words = advised(text)
    words = [str(values.get(word, word)) for word in words]
    extra = ("--scheduler", scheduler()) if words[0] in ("build", "add") else ()
    done = call(GROUPS[group], *words, *extra)
    assert done.exit_code == 0, f"{words}: {done.output}"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tree(tmp_path_factory.mktemp("advice") / "corpus", 3)


@pytest.fixture(scope="module")
def waves(corpus: Path) -> Path:
    assert build(corpus, corpus.parent / "WAVES", "--features", "wave").exit_code == 0
    return corpus.parent / "WAVES"


def test_a_place_without_a_store_is_told_by_what_it_is(corpus: Path, waves: Path, tmp_path: Path) -> None:
    nothing = tmp_path / "no store"
    told = call(store_group, "info", nothing).stderr
    follow(told, CORPUS=corpus)
    assert call(store_group, "info", nothing).exit_code == 0
    for path, reason in (
        (waves.parent, f"but {waves} may be one: name that"),
        (corpus, "it holds other things ('speaker0'): name the folder of a store"),
        (corpus / "speaker0" / "000.txt", "it is a file"),
    ):
        with pytest.raises(NotAStore) as caught:
            store.root_attributes.read_attributes(path)
        assert reason in str(caught.value) and "featurize build" not in str(caught.value)


def test_a_feature_that_lacks_its_source_says_how_to_build_it(corpus: Path, waves: Path, tmp_path: Path) -> None:
    told = add(waves, "align")
    assert told.exit_code == 1
    follow(told.stderr, CORPUS=corpus, STORE=tmp_path / "S")
    assert "align" in store.open(tmp_path / "S").features
    told = call(store_group, "export", waves, "--to", "textgrid", "--out", tmp_path / "grids")
    follow(told.stderr, CORPUS=corpus, STORE=tmp_path / "T")
    assert call(store_group, "export", tmp_path / "T", "--to", "textgrid", "--out", tmp_path / "G").exit_code == 0


def test_times_are_found_once_and_then_said_not_to_fit(corpus: Path, tmp_path: Path) -> None:
    """Of the three texts one has more phones than its recording has room for."""
    root, many = tmp_path / "STORE", shutil.copytree(corpus, tmp_path / "corpus")
    for n in range(5):
        shutil.copy(many / "speaker0" / "000.wav", many / "speaker0" / f"long{n}.wav")
        (many / "speaker0" / f"long{n}.txt").write_text("seven rivers run down to open water " * 10)
    grid = many / "speaker1" / "000.TextGrid"
    seconds = 0.96875
    write_textgrid(grid, {"phones": [(0.0, 0.5, "HH"), (0.5, seconds, "AY1")]}, seconds)
    (many / "speaker1" / "000.txt").write_text("hi")
    assert build(many, root, "--features", "wave,phones").exit_code == 0
    assert summarize(store.open(root))["alignments"] == {"none": 7, "TextGrid": 1}
    partly = call(store_group, "export", root, "--to", "textgrid", "--out", tmp_path / "one")
    assert "7 utterances without times" in partly.stdout
    follow(partly.stdout)
    again = add(root, "align")
    shown = " ".join(again.stdout.split())
    assert "5 without align (speaker0/long0.wav, speaker0/long1.wav, speaker0/long2.wav and 2 more)" in shown
    assert "phones that do not fit into the recording" in shown
    assert f"allofthemareunder`failed`in{root}/add.json" in "".join(shown.split())
    told = json.loads((root / "add.json").read_text())["added"]["align"]["failed"]
    assert [each["id"] for each in told] == [f"speaker0/long{n}.wav" for n in range(5)]
    opened = store.open(root)
    assert summarize(opened)["alignments"] == {"none": 5, "learned": 2, "TextGrid": 1}
    assert "none (5), learned (2), TextGrid (1)" in call(store_group, "info", root).stdout
    partly = call(store_group, "export", root, "--to", "textgrid", "--out", tmp_path / "three")
    assert "5 utterances without times: align found none that fit" in partly.stdout
    assert "featurize add" not in partly.stdout, "it is there already"


def test_another_table_of_symbols_is_another_store(tmp_path: Path) -> None:
    """Built again into the same store, the advice led to a refusal; and the export of it back to the first table."""
    made = make_tree(tmp_path / "corpus", 1)
    words = ("--language", "es", "--features", "wave,phones")
    first = build(made, tmp_path / "S", *words, "--symbols", "gpt-sovits-v2")
    assert first.exit_code == 1 and "build into another --out, with --symbols headrace-ipa" in first.stderr
    assert build(made, tmp_path / "T", *words, "--symbols", "headrace-ipa").exit_code == 0
    assert build(made, tmp_path / "T", *words).exit_code == 0, "it keeps its table"
    told = call(store_group, "export", tmp_path / "T", "--to", "gpt-sovits", "--out", tmp_path / "G").stderr
    assert "no table of upstream has phones of es" in told and "--symbols" not in told


def test_rejects_of_several_stores_are_in_their_files(tmp_path: Path) -> None:
    for name, speaker in (("A", "speaker0"), ("B", "speaker1")):
        made = make_tree(tmp_path / name / "corpus", 2)
        shutil.rmtree(made / speaker)
        (made / "none.txt").write_text("a text without a recording")
        assert build(made, tmp_path / name / "STORE", "--features", "wave").exit_code == 0
    listed = tmp_path / "all.txt"
    listed.write_text("A/STORE\nB/STORE\n")
    shown = "".join(call(store_group, "info", listed).stdout.split())
    files = ",".join(str(tmp_path / name / "STORE" / "rejects.jsonl") for name in ("A", "B"))
    assert f"2,eachwithitsreasonin{files}" in shown and "all.txt/rejects" not in shown


INSIDE = ("parts/00003/wave/c/0", "parts/00003", "index/frames", "index/zarr.json", "zarr.json")
STORES = ("S", "/data/index", "/data/index/S", "/data/parts/00007/S", "a b/S", ".")


@pytest.mark.parametrize(
    ("root", "inside"),
    # Whose `zarr.json` the one in /data/index is, only knows who reads it.
    [pair for pair in itertools.product(STORES, INSIDE) if pair != ("/data/index", "zarr.json")],
)
def test_what_is_damaged_inside_a_store_names_the_store(root: str, inside: str) -> None:
    """`run store verify.` left out of which store of a list. The folder around a store may be called anything."""
    assert run_verify(Path(root, inside)) == f"run {command('store verify', root)}"
    assert run_repair(Path(root, inside)) == f"run {command('store repair', root)}"


def test_damage_names_the_store_whatever_that_is_called(tmp_path: Path) -> None:
    root = training_store.build(tmp_path / "index", (20,), parts=1).path
    file = root / "parts" / "00000" / "mfcc" / "zarr.json"
    whole = file.read_bytes()
    file.write_bytes(b"")
    with pytest.raises(DamagedStore, match=f"run store verify {root}"):
        store.open(root).read("mfcc", 0)
    file.write_bytes(whole)
    (root / "zarr.json").write_bytes((root / "zarr.json").read_bytes().replace(b"gpt-sovits-v2", b"gpt-sovits-v1"))
    with pytest.raises(DamagedStore, match=f"run store repair {root}"):
        store.open(root)


def test_an_imported_store_is_imported_again_and_not_built_from_a_corpus_that_is_not_there() -> None:
    imported = {"features": [gpt_sovits_dir.semantic_spec().to_json()]}
    built = {"features": [{"recipe": {"quantiser": "gpt-sovits", "weights": "aa"}}, {"recipe": {"hop": 640}}]}
    assert repair._commands(Path("S"), imported, False, []) == ["store import DIR --out S"]
    assert repair._commands(Path("S"), built, False, [])[0].startswith("featurize build CORPUS --out S")
