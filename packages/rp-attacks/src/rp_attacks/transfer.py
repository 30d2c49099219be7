"""Transfer: adversarial images made on one model, judged on another."""

from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor

from rp_attacks.attack import ImageAttack
from rp_attacks.defence import Classifier
from rp_attacks.norms import AnyNorm
from rp_attacks.problem import Attack
from rp_attacks.store import load_images
from rp_attacks.watch import asking_source


@dataclass(frozen=True, slots=True)
class Wrapped(ImageAttack):
    """An attack that is run on something else than the model it is given: its ball is that attack's."""

    attack: Attack

    @property
    def norm(self) -> AnyNorm:
        """Norm of the attack's ball."""
        return self.attack.norm

    @property
    def eps(self) -> float:
        """Radius of the attack's ball."""
        return self.attack.eps

    @property
    def shares_randomness(self) -> bool:
        """Whether the attack's result depends on which images it is given together."""
        return getattr(self.attack, "shares_randomness", False)


@dataclass(frozen=True, slots=True)
class Transfer(Wrapped):
    """Runs an attack on a source model, whatever the model under attack.

    A white-box attack on a defence must be at least as strong as a transfer from the undefended classifier: where it is
    not, the defence hides its gradient. With a purifier's shortened form as source it is an adaptive attack.
    """

    source: Classifier = field(repr=False)

    @property
    def takes_soft_labels(self) -> bool:
        """Whether the attack takes them."""
        return getattr(self.attack, "takes_soft_labels", False)

    def _perturb(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        """Adversarial images for the source model; `model` is not asked."""
        with asking_source():
            return self.attack(self.source, x, y, seed=seed, index=index)


@dataclass(frozen=True, kw_only=True, slots=True)
class Saved(ImageAttack):
    """Adversarial images that an earlier evaluation saved, to be judged again, also by another model.

    Images are found by their index, which must be the one that they were saved under.
    """

    images: Tensor = field(repr=False)  # (n, c, h, w)
    index: Tensor = field(repr=False)  # (n,) int64
    eps: float
    norm: AnyNorm = "linf"
    name: str = "saved"

    @classmethod
    def load(cls, folder: Path, stage: str, *, index: Tensor, eps: float, norm: AnyNorm = "linf") -> "Saved":
        """The images of one attack of an evaluation's folder.

        Args:
            folder: of the evaluation.
            stage: name of the attack.
            index: the indices that the evaluation was given, in its order.
            eps: radius of the attack's ball.
            norm: norm of the ball.
        """
        return cls(images=load_images(folder, stage), index=index, eps=eps, norm=norm, name=f"{folder.name}/{stage}")

    def _perturb(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        """The saved images of the given indices; `model` is not asked."""
        place = {image: row for row, image in enumerate(self.index.tolist())}
        missing = [image for image in index.tolist() if image not in place]
        if missing:
            raise ValueError(f"{self.name} holds no image of index {missing[:5]}; was it saved under other indices?")
        return self.images[[place[image] for image in index.tolist()]].to(x)
