"""A classifier behind a purifier is again a classifier, so that every attack and every metric works on it."""

import functools
from collections.abc import Callable

from torch import Tensor, nn

from rp_purify.descent import SignDescent
from rp_purify.purifier import Purifier


class Defended(nn.Module):
    """Classifies purified images.

    It offers what an honest attack asks of a defence: its noise as a function of (seed, index) by `with_noise`, other
    backward rules by `gradients` and `with_gradient`, and, where the purifier descends one, its `reconstruction_loss`.

    Args:
        classifier: images in [0, 1] to logits; for `forward_features` it must have that method itself.
    """

    reconstruction_loss: Callable[..., Tensor]
    """The purifier's `reconstruction_loss(x, *, seed, index)`; missing if it descends no loss."""

    def __init__(self, purifier: Purifier, classifier: nn.Module) -> None:
        super().__init__()
        self.purifier, self.classifier = purifier, classifier
        # an attribute of the instance, so that a defence without such a loss does not look as if it had one
        if isinstance(purifier, SignDescent):
            self.reconstruction_loss = purifier.reconstruction_loss

    def forward(self, x: Tensor, *, seed: int | None = None, index: Tensor | None = None) -> Tensor:
        """Logits (b, k) of images (b, c, h, w) in [0, 1]; seed and image indices go to the purifier."""
        return self.classifier(self.purifier(x, seed=seed, index=index))

    def forward_features(self, x: Tensor, *, seed: int | None = None, index: Tensor | None = None) -> Tensor:
        """The classifier's penultimate features (b, d) of the purified images; arguments as in `forward`."""
        features: Callable[[Tensor], Tensor] = self.classifier.forward_features  # type: ignore[assignment]
        return features(self.purifier(x, seed=seed, index=index))

    def with_noise(self, *, seed: int, index: Tensor) -> Callable[[Tensor], Tensor]:
        """The same classifier, the noise of each row a function of (seed, index of that row) alone."""
        return functools.partial(self, seed=seed, index=index)

    @property
    def gradients(self) -> tuple[str, ...]:
        """The backward rules that `with_gradient` knows."""
        return self.purifier.gradients

    def with_gradient(self, name: str) -> "Defended":
        """The same classifier with another backward rule through the purifier; logits stay the same."""
        defended = Defended(self.purifier.with_gradient(name), self.classifier)
        defended.training = self.training  # not train(), which would reach into the shared classifier
        return defended
