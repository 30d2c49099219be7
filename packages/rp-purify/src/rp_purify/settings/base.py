"""What all purifiers' settings have in common, and the checks that several make."""

from dataclasses import dataclass, field, fields
from typing import Literal, Protocol

from rp_models.settings import require

Per = Literal["image", "batch"]
"""What is chosen, drawn or averaged: for each "image" by itself, or once for the whole "batch"."""
ROLES = ("mae", "model", "autoencoder", "auxiliary_model")
"""The settings that name checkpoints."""
NETWORKS = {
    "maskdit-pure": "a MaskDiT",
    "latent-maskdit-pure": "a MaskDiT of latents",
    "denoise": "a denoiser",
}
"""What a kind's `model` is, where it is no EDM network."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PurifierSettings:
    """What all purifiers' settings have: a kind, which names the purifier on command lines and in tables."""

    kind: str = field(default="", init=False)

    def in_words(self) -> str:
        """The settings in one line, networks left out."""
        values = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("kind", *ROLES)}
        return ", ".join(f"{name} {short(value)}" for name, value in values.items() if value is not None) or "as it is"

    def one_pass(self) -> "PurifierSettings | None":
        """The purifier of one pass with the same network, or None where there is none."""
        return None

    def shortened(self, steps: int) -> "PurifierSettings | None":
        """The same noise in at most so many denoising steps a round, or None where no step can be left out.

        Lee and Kim 2023, arXiv:2303.09051, attack this shorter process in the purifier's place.
        """
        return None

    def guides(self, steps: int) -> "dict[str, PurifierSettings]":
        """Shorter purifiers whose exact gradient guides attacks on this one, by the names of `rp_attacks`' suites."""
        found = {"one_shot": self.one_pass(), "surrogate": self.shortened(steps)}
        return {name: choice for name, choice in found.items() if choice is not None}


def check_network(settings: PurifierSettings) -> None:
    """Refuse a purifier without the checkpoint that it needs."""
    kind, role = settings.kind, "mae" if hasattr(settings, "mae") else "model"
    network = "a masked autoencoder" if role == "mae" else NETWORKS.get(kind, "an EDM network")
    message = f"purifier.kind {kind} needs {network}; name its checkpoint with --purifier.{role}"
    require(bool(getattr(settings, role)), message)


def check_positive(settings: PurifierSettings, name: str) -> None:
    """Raise ValueError unless a setting is positive."""
    require(getattr(settings, name) > 0, f"purifier.{name} must be positive, got {getattr(settings, name)}")


class _Resizes(Protocol):
    """Settings with a size for the network."""

    @property
    def resize(self) -> int | None:
        """The side of the images, or None."""
        ...


def check_resize(settings: _Resizes) -> None:
    """Raise ValueError for a side that no image has."""
    require(settings.resize is None or settings.resize >= 1, f"purifier.resize must be positive, got {settings.resize}")


def short(value: object) -> str:
    """A number with three digits, anything else as it is."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
