"""Whether lower precision changes the gradients that an attack follows."""

from collections.abc import Callable, Collection
from contextlib import AbstractContextManager

from torch import Tensor

from rp_attacks.defence import OffersGradients, with_gradient
from rp_attacks.eot import NoGradientError, expected_gradient
from rp_attacks.losses import cw_margin
from rp_attacks.probes import Probe
from rp_attacks.report import Finding
from rp_attacks.rng import PrivateStream

_SMALL = 0.05  # share of signs that differ; a step loses twice the share of the slope that they carry


def sign_differences(
    probe: Probe, rules: Collection[str], full_precision: Callable[[], AbstractContextManager[object]]
) -> list[Finding]:
    """The share of gradient signs that are others than in float32, under the same noise, for each backward rule."""
    known = ("exact", *(probe.model.gradients if isinstance(probe.model, OffersGradients) else ()))
    shares = {}
    for rule in (name for name in known if name in rules):
        try:
            low = _gradient(probe, rule)
            with full_precision():
                full = _gradient(probe, rule)
        except NoGradientError:  # `zero_gradients` says so
            continue
        differing, slope = low.sign() != full.sign(), full.abs()
        lost = (differing * slope).flatten(1).sum(dim=1) / slope.flatten(1).sum(dim=1).clamp(min=1e-30)
        shares[rule] = (differing.float().mean().item(), lost.mean().item())
    if not shares:
        return []
    seen = "; ".join(
        f"{rule} {share:.1%}, which carry {lost:.1%} of the slope" for rule, (share, lost) in shares.items()
    )
    seen = f"Signs of the gradient on {len(probe.x)} images that differ from float32: {seen}"
    if max(share for share, _ in shares.values()) > _SMALL:
        text = f"{seen} (more than {_SMALL:.0%}): attacks follow rounding errors. Evaluate in fp32 or tf32."
        return [Finding("alarm", "precision", text)]
    return [Finding("ok", "precision", f"{seen}.")]


def _gradient(probe: Probe, rule: str) -> Tensor:
    """The gradient of the margin at the images."""
    with PrivateStream(probe.seed)(probe.x.device):
        return expected_gradient(
            with_gradient(probe.model, rule), probe.x, probe.y, cw_margin,
            seed=probe.seed, index=probe.index, passes=probe.passes, chunk=probe.chunk,
        ).grad  # fmt: skip
