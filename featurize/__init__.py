"""Build a store of features from recordings and transcripts.

    from pathlib import Path
    from headrace.featurize import BuildConfig, build, get_preset

    report = build(
        BuildConfig(
            corpus=Path("corpus"),
            out=Path("STORE"),
            preset=get_preset("gpt-sovits-v2"),
            features=("wave", "mel", "mfcc", "phones"),
        )
    )
    print(report["utterances"], report["hours"])

`build` runs worker processes: call it below `if __name__ == "__main__":`. `scan` reads what a corpus holds and decodes
nothing, `add` adds features to a store, and `import_directory` makes a store of what GPT-SoVITS prepared. The functions
take an observer that is told of progress. Without one they are silent.

Names are loaded when they are first used: importing this package is quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.featurize.audio.recording import Limits
    from headrace.featurize.corpus.formats.known_formats import FORMATS
    from headrace.featurize.exchange.export_gpt_sovits import export_directory
    from headrace.featurize.exchange.export_lhotse import export_cuts
    from headrace.featurize.exchange.export_textgrid import export_textgrids
    from headrace.featurize.exchange.import_gpt_sovits import ImportConfig, import_directory
    from headrace.featurize.pipeline.add_features import AddConfig, add
    from headrace.featurize.pipeline.build import BuildConfig, ScannedCorpus, build, scan
    from headrace.featurize.pipeline.drop_features import drop
    from headrace.featurize.pipeline.estimate import estimate, summarize_corpus
    from headrace.featurize.pipeline.feature_registry import DERIVED_FEATURES, create_features
    from headrace.featurize.pipeline.observer import SilentObserver
    from headrace.featurize.pipeline.presets import PRESETS, SEALED_FEATURES, Preset, get_preset, read_recipe
    from headrace.featurize.text.g2p import phonemise

_MODULES = {
    "audio.recording": ("Limits",),
    "corpus.formats.known_formats": ("FORMATS",),
    "exchange.export_gpt_sovits": ("export_directory",),
    "exchange.export_lhotse": ("export_cuts",),
    "exchange.export_textgrid": ("export_textgrids",),
    "exchange.import_gpt_sovits": ("ImportConfig", "import_directory"),
    "pipeline.add_features": ("AddConfig", "add"),
    "pipeline.build": ("BuildConfig", "ScannedCorpus", "build", "scan"),
    "pipeline.drop_features": ("drop",),
    "pipeline.estimate": ("estimate", "summarize_corpus"),
    "pipeline.feature_registry": ("DERIVED_FEATURES", "create_features"),
    "pipeline.observer": ("SilentObserver",),
    "pipeline.presets": ("PRESETS", "SEALED_FEATURES", "Preset", "get_preset", "read_recipe"),
    "text.g2p": ("phonemise",),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "DERIVED_FEATURES",
    "FORMATS",
    "PRESETS",
    "SEALED_FEATURES",
    "AddConfig",
    "BuildConfig",
    "ImportConfig",
    "Limits",
    "Preset",
    "ScannedCorpus",
    "SilentObserver",
    "add",
    "build",
    "create_features",
    "drop",
    "estimate",
    "export_cuts",
    "export_directory",
    "export_textgrids",
    "get_preset",
    "import_directory",
    "phonemise",
    "read_recipe",
    "scan",
    "summarize_corpus",
]


def __getattr__(name: str) -> Any:
    """Load a name of `__all__` from its module."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
