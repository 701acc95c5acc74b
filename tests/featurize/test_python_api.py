"""What `headrace.featurize` offers to a user of Python."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from headrace import featurize
from tests.helpers.commands import scheduler
from tests.helpers.corpora import make_tree


def test_importing_it_is_light() -> None:
    code = "import sys, headrace.featurize; "
    code += "print(sorted({'torch', 'dask', 'distributed', 'numba', 'numpy', 'zarr'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout.strip() == b"[]"


def test_every_name_is_loaded_when_it_is_used() -> None:
    assert set(featurize.__all__) <= set(dir(featurize))
    for name in featurize.__all__:
        assert getattr(featurize, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        featurize.nonsense  # noqa: B018


def test_a_store_is_built_and_a_feature_is_added(tmp_path: Path) -> None:
    config = featurize.BuildConfig(
        corpus=make_tree(tmp_path / "corpus", 4),
        out=tmp_path / "STORE",
        preset=featurize.get_preset("gpt-sovits-v2"),
        features=("wave", "phones"),
        scheduler=scheduler(),
    )
    scanned = featurize.scan(config)
    assert len(scanned.utterances) == 4 and featurize.summarize_corpus(scanned)["utterances"] == 4
    assert featurize.build(config)["utterances"] == 4
    features = featurize.create_features(["level"], {})
    added = featurize.add(featurize.AddConfig(store=config.out, features=features, scheduler=scheduler()))
    assert added["added"]["level"]["parts"] == added["added"]["level"]["parts_built"] == 1
