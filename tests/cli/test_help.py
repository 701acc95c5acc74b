"""What a command line promises, and how fast it answers. `python -m tests.cli.test_help` writes help.txt anew."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest

from headrace.cli.options import POSITIVE

COMMANDS = ("featurize", "store", "train")
SNAPSHOT = Path(__file__).with_name("help.txt")
HEAVY = {"torch", "dask", "distributed", "nvidia", "zarr", "numpy", "matplotlib", "rich"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_light_and_quick(command: str) -> None:
    script = f"""
import sys, time
from headrace.cli.{command} import main
try:
    main(["--help"])
except SystemExit as end:
    assert end.code == 0
print(time.process_time(), file=sys.stderr)
heavy = {HEAVY} & set(sys.modules)
sys.exit(f"imported {{heavy}}" if heavy else 0)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert float(done.stderr) < 1.5, "0.2 CPU-seconds are usual; torch alone takes 2"


def pages() -> dict[str, click.Context]:
    """Return a context of every command and subcommand, by its words."""
    found = {}
    for name in COMMANDS:
        group = importlib.import_module(f"headrace.cli.{name}").main
        found[name] = _context(group, name, None)
        for sub in group.list_commands(found[name]):
            found[f"{name} {sub}"] = _context(group.get_command(found[name], sub), sub, found[name])
    return found


def _context(command: click.Command, name: str, parent: click.Context | None) -> click.Context:
    """Make a context in which help is as a person sees it, 100 columns wide."""
    wide: dict[str, Any] = {"terminal_width": 100, "max_content_width": 100}
    return click.Context(command, info_name=name, parent=parent, **command.context_settings, **wide)


def help_text() -> str:
    """Return `--help` of every command and subcommand."""
    return "\n\n".join(context.command.get_help(context) for context in pages().values()) + "\n"


def test_the_command_line_is_what_was_promised() -> None:
    """A changed option changes tests/cli/help.txt in the same commit."""
    assert help_text() == SNAPSHOT.read_text(encoding="utf-8")


def test_every_option_has_a_help_text_that_is_a_sentence() -> None:
    for words, context in pages().items():
        for parameter in context.command.params:
            if isinstance(parameter, click.Option):
                text = parameter.help or ""
                assert text[:1].isupper() and text.endswith("."), f"{words} {parameter.opts[0]}: {text!r}"


def test_no_option_takes_a_number_that_is_not_finite() -> None:
    """click's own types let `nan` through every limit."""
    taken = 0
    for words, context in pages().items():
        for parameter in context.command.params:
            if not isinstance(parameter.type, click.types.FloatParamType):
                continue
            taken += 1
            for text in ("nan", "inf", "-inf", "1e999"):
                with pytest.raises(click.BadParameter, match="is not a finite number"):
                    parameter.type.convert(text, parameter, context)
                    pytest.fail(f"{words} {parameter.opts[0]} takes {text}")
    assert taken >= 15
    assert POSITIVE.convert("1e-300", None, None) == 1e-300


if __name__ == "__main__":
    SNAPSHOT.write_text(help_text(), encoding="utf-8")
