"""The models that a run can train, by name: what `--preset` chooses from. Needs no torch."""

from __future__ import annotations

from dataclasses import dataclass

from headrace.train.models import gpt_config, sovits_config
from headrace.train.models.gpt_config import GptConfig
from headrace.train.models.sovits_config import SovitsConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Preset:
    """Sizes of the two networks that are trained for each other."""

    sovits: SovitsConfig
    gpt: GptConfig


PRESETS = {
    "tiny": Preset(sovits=sovits_config.tiny(), gpt=gpt_config.tiny()),
    "small": Preset(sovits=sovits_config.small(), gpt=gpt_config.small()),
    "v1": Preset(sovits=sovits_config.v1(), gpt=gpt_config.v1()),
    "v2": Preset(sovits=sovits_config.v2(), gpt=gpt_config.v2()),
    "v2Pro": Preset(sovits=sovits_config.v2Pro(), gpt=gpt_config.v2()),
    "v2ProPlus": Preset(sovits=sovits_config.v2ProPlus(), gpt=gpt_config.v2()),
    "large": Preset(sovits=sovits_config.large(), gpt=gpt_config.large()),
}
"""`tiny` is for tests and demonstrations, `small` for slow devices and `large` for much data. The others are GPT-SoVITS
as published; v2Pro and v2ProPlus use the decoder of v2."""
