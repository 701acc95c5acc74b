"""The models that can be trained, by name: what `--stage` chooses from."""

from __future__ import annotations

from headrace.train.stages.gpt_stage import GptStage
from headrace.train.stages.sovits_stage import SovitsStage
from headrace.train.stages.stage import Stage

STAGES: dict[str, type[Stage]] = {"sovits": SovitsStage, "gpt": GptStage}
