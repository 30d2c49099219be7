"""Low-frequency attack: an offset of the image, seen through a chain of learned filters that follow its edges.

Source: Kassis et al. 2025 (DiffBreak), as its published code does it (andrekassis/DiffBreak, 50f8705).
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace as State

import torch
import torch.nn.functional as F
from torch import Tensor

from rp_attacks.attack import ImageAttack
from rp_attacks.carlini_wagner import Adam
from rp_attacks.defence import Classifier, with_gradient
from rp_attacks.eot import expected_gradient, margins
from rp_attacks.losses import cw_margin
from rp_attacks.noise import derive_seed
from rp_attacks.norms import Norm, column, project, repaired
from rp_attacks.pgd import Best
from rp_attacks.problem import check_positive, check_radius
from rp_attacks.resume import resumable

CIFAR_KERNELS = ((5, 5), (7, 7), (5, 5), (3, 3))
LARGE_KERNELS = ((21, 5), (5, 5), (17, 33), (7, 7), (47, 5), (33, 17), (17, 17), (5, 5), (3, 3))
_INSIDE = 0.999999  # of (-1, 1), where arctanh is finite
_FIRST_WIDTH = 0.2  # of the Gaussian that each kernel begins as, in pixels
_EDGE = 0.05  # difference of colours over which two pixels are hardly mixed


@dataclass(frozen=True, kw_only=True, slots=True)
class LowFrequency(ImageAttack):
    """DiffBreak's low-frequency attack, x' = F((tanh(arctanh(2x - 1) + d) + 1) / 2), here limited to an Linf ball.

    F mixes each pixel with those around it by kernels of its own, which are learned beside the offset d, and which the
    clean image's edges stop. The published attack has no ball (`eps=1`) but a perceptual distance, LPIPS, whose weights
    are not part of this package: pass it as `distance`.
    """

    eps: float = 8 / 255  # in units of [0, 1] pixels; 1 for no limit
    steps: int = 100
    kernels: tuple[tuple[int, int], ...] = CIFAR_KERNELS  # height and width of each filter, odd; `LARGE_KERNELS`
    step_size: float = 0.008  # of the offset, by Adam
    filter_step_size: float = 0.05  # of the filters, by Adam
    # (images, clean images) to one distance each, (b,), differentiable
    distance: Callable[[Tensor, Tensor], Tensor] | None = field(default=None, repr=False)
    limit: float = 0.05  # of the distance, above which it is punished, and an image does not count as broken
    weight: float = 1e8  # of the distance above its limit; 1e4 on larger images
    eot: int = 1  # passes whose gradients are averaged
    grad: str = "exact"  # backward rule, of those that the defence offers

    def __post_init__(self) -> None:
        check_radius("linf", self.eps)
        check_positive(
            steps=self.steps, step_size=self.step_size, filter_step_size=self.filter_step_size, limit=self.limit,
            weight=self.weight, eot=self.eot,
        )  # fmt: skip
        if not self.kernels or any(side < 1 or side % 2 == 0 for kernel in self.kernels for side in kernel):
            raise ValueError(f"kernels must be pairs of odd heights and widths, got {self.kernels}")

    @property
    def norm(self) -> Norm:
        """Linf, always."""
        return "linf"

    def forecast(self, classes: int) -> tuple[int, int]:
        """Forward and backward passes of an image at most."""
        return (self.steps + 1) * self.eot, self.steps * self.eot

    def _perturb(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        """The image within the limit that most passes misclassify, and of those the one of largest margin."""
        model, best = with_gradient(model, self.grad), Best(x)
        mixed = [_mixed(x, kernel) for kernel in self.kernels]
        at = State(best=best, offset=torch.zeros_like(x), adam=Adam(x, self.step_size))
        for number, kernel in enumerate(self.kernels):
            first = _first_quarter(x, kernel)
            setattr(at, f"filter{number}", first)
            setattr(at, f"adam{number}", Adam(first, self.filter_step_size))
        for step in resumable("steps", self.steps, at):
            rows = (best.wrong < 1).nonzero().flatten()  # of the others no pass is made any more
            if len(rows) == 0:
                break
            leaves = [part.detach().requires_grad_() for part in self._parts(at)]
            images = self._images(leaves, x, mixed)
            sample = expected_gradient(
                model, images.detach()[rows], y[rows], cw_margin, seed=derive_seed(seed, "step", step),
                index=index[rows], passes=self.eot, check=step == 0,
            )  # fmt: skip
            penalty, within = self._penalty(images, x)
            best.offer(rows, images.detach()[rows], *_allowed(sample.margin, sample.wrong, within[rows]))
            value = (images[rows] * sample.grad).sum() - penalty.sum()
            self._step(at, [repaired(grad)[0] for grad in torch.autograd.grad(value, leaves)])
        rows = (best.wrong < 1).nonzero().flatten()
        if len(rows):
            images = self._images(self._parts(at), x, mixed).detach()
            last = derive_seed(seed, "last")
            found = margins(model, images[rows], y[rows], seed=last, index=index[rows], passes=self.eot)
            best.offer(rows, images[rows], *_allowed(*found, self._penalty(images, x)[1][rows]))
        return best.images

    def _parts(self, at: State) -> list[Tensor]:
        return [at.offset, *(getattr(at, f"filter{number}") for number in range(len(self.kernels)))]

    def _images(self, parts: list[Tensor], x: Tensor, mixed: list[Tensor]) -> Tensor:
        """The images that offset and filters make, in the ball."""
        moved = (torch.atanh((2 * x - 1) * _INSIDE) + parts[0]).tanh() / 2 + 0.5
        for quarter, edges, kernel in zip(parts[1:], mixed, self.kernels, strict=True):
            moved = filtered(moved, quarter, edges, kernel)
        return project(moved, x, norm="linf", eps=self.eps)

    def _penalty(self, images: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
        """What is subtracted from each image's margin, and whether the image is within the limit, (b,) each."""
        if self.distance is None:
            return x.new_zeros(len(x)), torch.ones(len(x), dtype=torch.bool, device=x.device)
        far = self.distance(images, x)
        return self.weight * torch.where(far >= self.limit, far, 0.0), far.detach() < self.limit

    def _step(self, at: State, grads: list[Tensor]) -> None:
        """Adam on offset and filters, the gradient of each image and group no longer than 1."""
        groups = [grads[:1], grads[1:]]
        scales = [
            torch.stack([grad.flatten(1).square().sum(dim=1) for grad in group]).sum(dim=0).sqrt().clamp_min(1.0)
            for group in groups
        ]
        at.offset = at.offset + at.adam.step(grads[0] / column(scales[0], grads[0]))
        for number, grad in enumerate(grads[1:]):
            moved = getattr(at, f"adam{number}").step(grad / scales[1].reshape(-1, *[1] * (grad.dim() - 1)))
            setattr(at, f"filter{number}", getattr(at, f"filter{number}") + moved)


def filtered(images: Tensor, quarter: Tensor, edges: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Images each of whose pixels is a mean of those around it.

    Args:
        images: (b, c, h, w).
        quarter: (b, kh // 2 + 1, kw // 2 + 1, h, w), one quarter of the logits of each pixel's kernel, its middle
            first; the others are its mirror images.
        edges: (b, kh * kw, h, w), by which the softmax of the logits is multiplied before it sums to 1 again.
        kernel: kh and kw, odd.
    """
    rows, columns = ((torch.arange(side, device=images.device) - side // 2).abs() for side in kernel)
    logits = quarter[:, rows][:, :, columns].flatten(1, 2)
    weights = logits.softmax(dim=1) * edges
    weights = weights / weights.sum(dim=1, keepdim=True)
    return (_around(images, kernel) * weights[:, None]).sum(dim=2)


def _around(images: Tensor, kernel: tuple[int, int]) -> Tensor:
    """The pixels around each pixel, (b, c, kh * kw, h, w); beyond the border those at the border."""
    height, width = kernel
    padded = F.pad(images, (width // 2, width // 2, height // 2, height // 2), mode="replicate")
    return F.unfold(padded, kernel).reshape(*images.shape[:2], height * width, *images.shape[2:])


def _mixed(x: Tensor, kernel: tuple[int, int]) -> Tensor:
    """How far two pixels of the clean image may mix, (b, kh * kw, h, w): exp(-|p - q|_1^2 / (2 0.05^2))."""
    apart = (_around(x, kernel) - x[:, :, None]).abs().sum(dim=1)
    return torch.exp(-apart.square() / (2 * _EDGE**2))


def _first_quarter(x: Tensor, kernel: tuple[int, int]) -> Tensor:
    """Logits of a narrow Gaussian, which leaves images nearly as they are."""
    rows, columns = (torch.arange(side // 2 + 1, device=x.device, dtype=x.dtype) for side in kernel)
    logits = -(rows[:, None].square() + columns.square()) / (2 * _FIRST_WIDTH**2)
    return logits[None, :, :, None, None].expand(len(x), -1, -1, *x.shape[2:]).clone()


def _allowed(margin: Tensor, wrong: Tensor, within: Tensor) -> tuple[Tensor, Tensor]:
    """Margins and shares of wrong passes, none of images beyond the limit."""
    return torch.where(within, margin, float("-inf")), torch.where(within, wrong, 0.0)
