"""SOAP: sign steps that lower a self-supervised loss of the classifier, in the smallest ball that lowers it most.

Source: Shi et al. 2021, arXiv:2101.09387, and its public code, which chooses one ball for the whole batch.
"""

from collections.abc import Callable, Iterator
from typing import get_args

import torch
from rp_models.settings import check_choice, within
from torch import Tensor, nn
from torch.nn import functional as F

from rp_purify.descent import SignDescent
from rp_purify.purifier import Purifier, frozen
from rp_purify.settings import Per

Auxiliary = Callable[[Tensor], Tensor]
"""auxiliary(images) -> the self-supervised loss of each image (b,)."""


class SOAP(Purifier):
    """Tries balls of radius 0, delta, 2 delta, ... and keeps for each image the one with the lowest auxiliary loss.

    It asks the classifier, so it belongs to it. Nothing is random. The backward rules are those of `SignDescent`.

    Args:
        model: the network that the auxiliary loss asks; frozen in eval mode.
        auxiliary: images to losses (b,), e.g. `LabelConsistency(classifier)`, which needs nothing but a classifier.
        delta: distance of the radii, in [0, 1] pixel units.
        step: of the sign steps, in [0, 1] pixel units.
        steps: number of sign steps in each ball; with 5 steps of delta the radii beyond 5 delta change nothing.
        levels: number of radii, 0 among them.
        per: "image", or "batch" for the published choice of one radius for all images.

    Raises:
        ValueError: for a setting out of range.
    """

    gradients = SignDescent.gradients

    def __init__(
        self,
        model: nn.Module,
        auxiliary: Auxiliary,
        *,
        delta: float = 4 / 255,
        step: float = 4 / 255,
        steps: int = 5,
        levels: int = 11,
        per: Per = "image",
        grad: str = "identity",
    ) -> None:
        super().__init__(seed=0, fresh=False, grad=grad)
        if levels < 1 or delta * (levels - 1) >= 1:
            raise ValueError(f"expected at least one radius, all below 1 in [0, 1] pixels, got {levels} of {delta}")
        self.model = model.eval()
        self.auxiliary = auxiliary
        self.delta, self.step, self.steps, self.levels, self.per = delta, step, steps, levels, per
        within(self, delta="positive")
        check_choice("per", self.per, get_args(Per))
        _AuxiliaryDescent(self, 0.0, grad)  # complains about the step

    def extra_repr(self) -> str:
        """The settings, for `repr`."""
        settings = super().extra_repr()
        return settings.replace(repr(self.auxiliary), type(self.auxiliary).__name__)

    def purify(self, x: Tensor, *, seed: int, index: Tensor) -> Tensor:
        """The chosen images."""
        tried, losses = zip(*self.candidates(x), strict=True)
        of_all = torch.stack(losses)
        if self.per == "batch":
            of_all = of_all.mean(dim=1, keepdim=True).expand_as(of_all)
        chosen = of_all.argmin(dim=0)  # the first of equal ones
        result: Tensor = tried[0]
        for level, image in enumerate(tried):
            result = torch.where((chosen == level).view(-1, 1, 1, 1), image, result)
        return result

    def candidates(self, x: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """The images that each ball leads to, with their losses (b,), detached."""
        index = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        for level in range(self.levels):
            image = _AuxiliaryDescent(self, level * self.delta, self.grad).purify(x, seed=0, index=index)
            with torch.no_grad(), frozen(self):
                loss = self.auxiliary(image.detach()).float()
            yield image, loss


class _AuxiliaryDescent(SignDescent):
    """Sign steps on the auxiliary loss in one ball."""

    def __init__(self, soap: SOAP, eta: float, grad: str) -> None:
        super().__init__(
            soap.model, step_size=soap.step, steps=soap.steps, eta=eta, halve=False, fresh=False, seed=0, grad=grad
        )
        self._auxiliary = soap.auxiliary

    def loss(self, x: Tensor, *, seed: int, index: Tensor, step: int) -> Tensor:
        """The auxiliary loss of each image (b,)."""
        return self._auxiliary(x)


class LabelConsistency(nn.Module):
    """How far the logits of an image and of one flipped, cropped and enlarged again are apart ("pi").

    Args:
        classifier: images to logits.
        margin: pixels that the second view loses on each side; 2 for images of 32 pixels.
    """

    def __init__(self, classifier: nn.Module, margin: int = 2) -> None:
        super().__init__()
        self.classifier, self.margin = classifier, margin

    def forward(self, x: Tensor) -> Tensor:
        """The mean squared difference of the logits (b,)."""
        height, width = x.shape[2:]
        cut = self.margin
        view = x.flip(3)[:, :, cut : height - cut, cut : width - cut]
        view = F.interpolate(view, size=(height, width), mode="nearest")
        result: Tensor = (self.classifier(x) - self.classifier(view)).square().mean(dim=1)
        return result


class RotationHead(nn.Module):
    """Four logits, one for each quarter turn, on a classifier's features; trained beside the classifier.

    Args:
        backbone: a network with `forward_features`, images to features (b, d).
        features: d.
    """

    def __init__(self, backbone: nn.Module, features: int) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Linear(features, 4)

    def forward(self, x: Tensor) -> Tensor:
        """The logits (b, 4) of the turn that each image has had."""
        features: Tensor = self.backbone.forward_features(x)  # type: ignore[operator]
        logits: Tensor = self.head(features)
        return logits


class Rotation(nn.Module):
    """How badly a head tells which of four turns an image has had, as squared error of its probabilities ("rot").

    Args:
        head: square images to four logits, e.g. `RotationHead`.
    """

    def __init__(self, head: nn.Module) -> None:
        super().__init__()
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """The squared error, a mean over the four turns and the four probabilities (b,)."""
        shares = self._logits(x).softmax(dim=2)
        wanted = torch.eye(4, dtype=shares.dtype, device=shares.device)
        return (shares - wanted).square().mean(dim=(1, 2))

    def training_loss(self, x: Tensor) -> Tensor:
        """The cross-entropy of the four turns, a mean over them (b,), which the head is trained with."""
        return -self._logits(x).log_softmax(dim=2).diagonal(dim1=1, dim2=2).mean(dim=1)

    def _logits(self, x: Tensor) -> Tensor:
        """The logits (b, 4, 4) of the images turned clockwise by 0, 1, 2 and 3 quarters."""
        if x.shape[2] != x.shape[3]:
            raise ValueError(f"only square images can be told turned, got {tuple(x.shape[2:])} pixels")
        turned = torch.stack([x.rot90(-turn, (2, 3)) for turn in range(4)], dim=1)
        logits: Tensor = self.head(turned.flatten(0, 1))
        return logits.view(len(x), 4, 4)


class Reconstruction(nn.Module):
    """How far an image is from an autoencoder's reconstruction of it ("rec").

    Args:
        autoencoder: images to images.
    """

    def __init__(self, autoencoder: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.autoencoder = autoencoder

    def forward(self, x: Tensor) -> Tensor:
        """The mean squared error (b,)."""
        result: Tensor = (self.autoencoder(x) - x).square().mean(dim=(1, 2, 3))
        return result
