"""Settings of the purifiers, one class each, and of robust fine-tuning; importing this does not import torch."""

from dataclasses import dataclass, field, fields
from typing import Any

from rp_models.settings import require

from rp_purify.settings.base import Per, PurifierSettings
from rp_purify.settings.diffusion import (
    DiffPureSettings,
    GaussianNoiseSettings,
    LikelihoodSettings,
    OneStepDenoiseSettings,
    Solver,
)
from rp_purify.settings.finetune import FinetuneSettings
from rp_purify.settings.finetune_denoiser import ADBMTuningSettings, ADDTTuningSettings
from rp_purify.settings.masked import (
    Freshness,
    MAEPureSettings,
    MAEReconstructionSettings,
    MaskDiTPureSettings,
    RandomStepsSettings,
    Schedule,
)
from rp_purify.settings.rivals import (
    ADBMSettings,
    ADPSettings,
    COUPSettings,
    EDMPurifySettings,
    GDMPSettings,
    GradualSettings,
    LatentMaskDiTPureSettings,
    NIMSettings,
    ScoreOptNSettings,
    SOAPSettings,
)

__all__ = [
    "KINDS",
    "ADBMTuningSettings",
    "ADDTTuningSettings",
    "DiffPureSettings",
    "FinetuneSettings",
    "Freshness",
    "GaussianNoiseSettings",
    "LikelihoodSettings",
    "MAEPureSettings",
    "MAEReconstructionSettings",
    "MaskDiTPureSettings",
    "NoPurificationSettings",
    "OneStepDenoiseSettings",
    "Per",
    "PurifierSettings",
    "Schedule",
    "Solver",
    "settings_of",
    "uses",
]


@dataclass(frozen=True, kw_only=True, slots=True)
class NoPurificationSettings(PurifierSettings):
    """The images as they are."""

    kind: str = field(default="none", init=False)


KINDS: dict[str, type[PurifierSettings]] = {
    "mae-pure": MAEPureSettings,
    "maskdit-pure": MaskDiTPureSettings,
    "mae-reconstruction": MAEReconstructionSettings,
    "denoise": OneStepDenoiseSettings,
    "noise": GaussianNoiseSettings,
    "random-steps": RandomStepsSettings,
    "diffpure": DiffPureSettings,
    "likelihood": LikelihoodSettings,
    "gradual": GradualSettings,
    "adbm": ADBMSettings,
    "edm-purify": EDMPurifySettings,
    "coup": COUPSettings,
    "gdmp": GDMPSettings,
    "scoreopt-n": ScoreOptNSettings,
    "adp": ADPSettings,
    "soap": SOAPSettings,
    "nim": NIMSettings,
    "latent-maskdit-pure": LatentMaskDiTPureSettings,
    "none": NoPurificationSettings,
}
"""The settings of each kind."""


def uses(kind: str) -> tuple[str, ...]:
    """The names of a kind's settings; the kind may be spelt mae-pure or mae_pure."""
    chosen = KINDS.get(kind.replace("_", "-"))
    if chosen is None:
        raise ValueError(f"purifier.kind must be one of {', '.join(KINDS)}, got {kind!r}")
    return tuple(f.name for f in fields(chosen) if f.init)


def settings_of(kind: str, **values: Any) -> PurifierSettings:
    """The settings of one kind of purifier."""
    known = uses(kind)
    ignored = ", ".join(f"purifier.{name}" for name in values if name not in known)
    has = ", ".join(known) or "none"
    require(not ignored, f"purifier.kind {kind} does not use {ignored}; its settings are {has}")
    return KINDS[kind.replace("_", "-")](**values)
