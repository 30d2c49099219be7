"""COUP: the reverse diffusion, pulled towards higher confidence of the classifier that it defends.

Source: Zhang et al. 2024, arXiv:2408.05900, and its public code, whose scripts add no noise before the reverse process.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from rp_purify.diffpure import DiffPure
from rp_purify.gradient import plain_attention
from rp_purify.reverse import Draw, Place, Round, Seen
from rp_purify.settings import Solver


class COUP(DiffPure):
    """DiffPure with the gradient of log max_k softmax(C)_k, at the state as it is, added to the score.

    The gradient rules beside those of `DiffPure`: "exact" differentiates the guidance too, and so the classifier twice;
    "detached" takes it as a constant, as "adjoint" (the published rule) does. A purifier that asks the classifier
    belongs to it: it cannot be judged as one that knows nothing of the classifier.

    Args:
        classifier: the one that is defended, images in [0, 1] to logits; it is neither changed nor trained.
        weight: lambda, the factor on the guidance.
        noised: noise the images first, as DiffPure does; the published scripts do not.
        others: see `DiffPure`.

    Raises:
        ValueError: without a classifier.
    """

    def __init__(
        self,
        denoiser: nn.Module,
        classifier: nn.Module,
        *,
        times: int | Sequence[int] = 100,
        weight: float = 1.0,
        noised: bool = False,
        steps: int | None = None,
        solver: Solver = "euler-maruyama",
        seed: int | None = None,
        fresh: bool = True,
        grad: str = "exact",
    ) -> None:
        if not isinstance(classifier, nn.Module):
            raise ValueError(f"COUP is guided by the classifier that it defends; give that, got {classifier!r}")
        super().__init__(denoiser, times=times, steps=steps, solver=solver, seed=seed, fresh=fresh, grad=grad)
        self.classifier = classifier.eval()
        self.weight, self.noised = weight, noised

    @property
    def rounds(self) -> list[Round]:
        """Start and steps of each round."""
        rounds = super().rounds
        return rounds if getattr(self, "noised", True) else [Round(1.0, 0.0, each.steps) for each in rounds]

    @property
    def gradients(self) -> tuple[str, ...]:  # type: ignore[override]
        """The backward rules."""
        return (*super().gradients, "detached")

    def train(self, mode: bool = True) -> "COUP":
        """Set the mode of the denoiser; the classifier stays in eval mode."""
        super().train(mode)
        self.classifier.eval()
        return self

    def shift(self, seen: Seen, place: Place, x: Tensor, draw: Draw) -> Tensor | float:
        """sigma^2 lambda m g, which adds lambda g to the score of x_t = m y."""
        signal = 1 / (1 + seen.sigma**2) ** 0.5
        return seen.sigma**2 * self.weight * signal * self.guidance(signal * seen.y)

    def guidance(self, x: Tensor) -> Tensor:
        """The gradient of the leading class's log probability at states in [-1, 1], with a graph if it is asked for."""
        exact = self.grad == "exact" and x.requires_grad and torch.is_grad_enabled()
        with torch.inference_mode(False), torch.enable_grad(), plain_attention():
            leaf = x if exact else x.detach().clone().requires_grad_()
            confidence = self.classifier((leaf + 1) / 2).float().log_softmax(dim=1).amax(dim=1)
            (g,) = torch.autograd.grad(confidence.sum(), leaf, create_graph=exact)
        return g
