"""Training of GPT-SoVITS from a feature store, and synthesis of speech with trained models.

Read a store in a training loop of your own:

    from headrace import store, train

    config = train.StreamConfig(batch_frames=9600)
    dataset = train.BatchDataset(store.open("STORE"), ("wave", "phones"), config)
    for batch in dataset:
        ...

Train with the loop of this package, stop at any time, continue, and speak:

    options = {"stage": "gpt", "preset": "tiny", "max_steps": 100}
    train.start(train.RunConfig.from_options(store=Path("STORE"), out=Path("RUN"), **options))
    train.resume(Path("RUN"), {"max_steps": 200})
    models = {"gpt": Path("RUN"), "sovits": Path("s2G.pth")}
    request = train.SynthesisRequest(text="Hello.", reference=Path("VOICE.wav"), **models)
    train.synthesize_speech(request).write(Path("hello.wav"))

Names are imported when they are first used, so that `import headrace.train` loads no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headrace.train.checkpoints.trained_models import export_run, load_gpt, load_sovits
    from headrace.train.config import RunConfig
    from headrace.train.data.batch import Batch
    from headrace.train.data.dataset import BatchDataset
    from headrace.train.data.stream import StreamConfig
    from headrace.train.inference.synthesis import Speech, SynthesisRequest, synthesize_speech
    from headrace.train.monitoring.observer import Observer
    from headrace.train.trainer.loop import resume, start

_EXPORTS = {
    "Batch": "data.batch:Batch",
    "BatchDataset": "data.dataset:BatchDataset",
    "Observer": "monitoring.observer:Observer",
    "RunConfig": "config:RunConfig",
    "Speech": "inference.synthesis:Speech",
    "StreamConfig": "data.stream:StreamConfig",
    "SynthesisRequest": "inference.synthesis:SynthesisRequest",
    "export_run": "checkpoints.trained_models:export_run",
    "load_gpt": "checkpoints.trained_models:load_gpt",
    "load_sovits": "checkpoints.trained_models:load_sovits",
    "resume": "trainer.loop:resume",
    "start": "trainer.loop:start",
    "synthesize_speech": "inference.synthesis:synthesize_speech",
}
"""Name to the module below this package, and the name there."""

__all__ = [
    "Batch",
    "BatchDataset",
    "Observer",
    "RunConfig",
    "Speech",
    "StreamConfig",
    "SynthesisRequest",
    "export_run",
    "load_gpt",
    "load_sovits",
    "resume",
    "start",
    "synthesize_speech",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _EXPORTS[name].partition(":")
    return getattr(importlib.import_module(f"{__name__}.{module}"), attribute)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
