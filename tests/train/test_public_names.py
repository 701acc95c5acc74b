"""`headrace.train` names what a user of Python starts from, and imports it when it is used."""

import subprocess
import sys

import pytest

from headrace import train


def test_importing_the_package_loads_no_torch() -> None:
    script = "import sys, headrace.train; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_every_name_can_be_imported() -> None:
    assert set(train.__all__) == set(train._EXPORTS) <= set(dir(train))
    for name in train.__all__:
        assert getattr(train, name).__doc__, name


def test_unknown_names_raise_attribute_error() -> None:
    with pytest.raises(AttributeError, match=r"module 'headrace\.train' has no attribute 'nothing'"):
        train.nothing  # noqa: B018
