"""Settings of suites of attacks, for command lines and recipes: importing this does not import torch."""

from dataclasses import dataclass
from typing import Literal

from rp_attacks.radii import Norm

SuiteName = Literal[
    "quick",
    "pgd200-eot20-linf",
    "pgd200-eot20-l2",
    "pgd200-eot20-l1",
    "autoattack",
    "autoattack-rand",
    "bpda-eot20",
    "cw-eot",
    "deepfool-eot",
    "blackbox",
    "unseen",
    "gradient",
    "purifier",
    "purifier-quick",
]
SUITE_NORMS: dict[str, Norm] = {
    "pgd200-eot20-linf": "linf",
    "pgd200-eot20-l2": "l2",
    "pgd200-eot20-l1": "l1",
    "cw-eot": "l2",
    "deepfool-eot": "l2",
    "blackbox": "linf",
}
"""The norm of suites that exist in one alone; "unseen" has all three."""


@dataclass(frozen=True, kw_only=True, slots=True)
class CertificateSettings:
    """How an image is certified under random noise; see `rp_attacks.certificate.certify`."""

    n0: int = 100  # draws that pick the class
    n: int = 10_000  # others that count it; 100,000 is usual on CIFAR-10, 10,000 on ImageNet
    alpha: float = 0.001  # probability, for each image, that its certificate is wrong

    def __post_init__(self) -> None:
        if self.n0 < 1 or self.n < 1 or not 0 < self.alpha < 1:
            raise ValueError(f"certificate: n0 and n must be at least 1 and alpha in (0, 1), got {self}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Budget:
    """How hard the suites "purifier", "gradient" and "blackbox" attack; the defaults are the field's."""

    steps: int = 200  # of PGD and APGD
    step_size: float | None = None  # of PGD, in the norm of the ball; None for 2.5 eps / steps
    eot: int = 20  # passes of a random defence that are averaged in a gradient
    curved_steps: int = 200  # of PGD through backward rules that differentiate twice, which cost several times more
    curved_eot: int = 20  # passes averaged there
    draws: int = 10  # noises that each step of the selective attack draws
    surrogate_steps: int = 5  # denoising steps a round of the shortened purifier that images are transferred from
    queries: int = 1000  # of Square, each of several passes of a random defence
    plain_queries: int | None = None  # in "purifier", of Square on a deterministic model; None for `queries`
    query_passes: int = 20  # of a random defence for each of them
    label_queries: int = 5000  # of RayS, which sees labels alone, and in "blackbox" of Square on a deterministic model
    label_passes: int = 5  # of a random defence for each of them
    search: int = 5  # values of C&W's constant
    search_steps: int = 200  # of C&W for each
    fab_steps: int = 100  # of FAB on the source

    def __post_init__(self) -> None:
        for name in self.__slots__:
            value = getattr(self, name)
            if value is None and name in ("step_size", "plain_queries"):
                continue
            if name == "step_size":
                if not value > 0:
                    raise ValueError(f"step_size must be above 0, got {value}")
            elif value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")

    def pgd_step(self, eps: float, steps: int) -> float:
        """The step size of a PGD of so many steps in a ball of this radius."""
        return self.step_size or 2.5 * eps / steps or 1.0
