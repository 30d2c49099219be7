"""Robust fine-tuning: a purifier's model learns to keep purified adversarial images in their class.

Stage I attacks purifier and classifier together and stores the images; stage II trains the purifier's model on them,
with the classifier frozen. The adversary is a callable, so that any attack will do.

Source: "MAE-Pure: Semantic-Preserving Adversarial Purification", Eq. 5-6 and appendices F.1, L.1; it follows AToP, Lin
et al. 2024, arXiv:2401.16352. Eq. 6 as printed has no weights on its right side; meant is the classifier's loss of the
purified image. The sign step has a zero derivative, so the purifier that is trained through is a one-shot
reconstruction (`MAEReconstruction`, `OneStepDenoise`) or a few sign steps with a curved backward rule.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from rp_models import noise
from rp_models.data.images import Images
from rp_models.diffusion.edm_loss import EDMLoss
from rp_models.diffusion.maskdit import MaskDiT
from rp_models.diffusion.maskdit_loss import log_normal_sigma, masked_denoising_loss
from rp_models.mask import random_mask
from rp_models.networks.mae import MaskedAutoencoder
from rp_models.settings import ComputeSettings
from rp_models.training.distributed import ALONE, Processes
from rp_models.training.minibatches import StepBatches, plan_of_all
from rp_models.training.schedule import cosine
from rp_models.training.trainer import BaseTrainer
from rp_models.values import send
from torch import Tensor, nn
from torch.nn import functional as F

from rp_purify.defended import Defended
from rp_purify.purifier import Purifier, frozen
from rp_purify.settings import FinetuneSettings

Attack = Callable[[nn.Module, Tensor, Tensor], Tensor]
"""attack(model, x, y) -> adversarial images."""


def adversarial_images(
    defended: Defended,
    images: Images,
    attack: Attack,
    *,
    noise_std: float,
    seed: int,
    batch_size: int = 128,
    done: Callable[[int], None] = lambda images: None,
) -> Tensor:
    """Stage I (Eq. 5): every training image with Gaussian noise, attacked through purifier and classifier.

    Args:
        defended: the whole system, whose purifier must be the one that stage II trains through.
        attack: `attack(model, x, y)`; it starts from the noisy images.
        noise_std: of the noise, in pixel units of [0, 1].
        done: called with the number of images made so far.

    Returns:
        Tensor (n, c, h, w) in [0, 1], in the order of `images`.
    """
    parts = []
    for start in range(0, len(images), batch_size):
        rows = slice(start, start + batch_size)
        parts.append(adversarial_batch(defended, images, attack, rows, noise_std=noise_std, seed=seed)[0])
        done(start + len(parts[-1]))
    return torch.cat(parts)


def adversarial_batch(
    attacked: nn.Module, images: Images, attack: Attack, rows: slice, *, noise_std: float, seed: int
) -> tuple[Tensor, Tensor]:
    """Some rows of `adversarial_images`, for those who store them as they come, or attack the classifier alone."""
    x, y = images.batch(rows)
    index = torch.arange(rows.start, rows.start + len(x), device=x.device)
    unit = noise.normal(x.shape[1:], seed=seed, purpose="stage I noise", index=index)
    with frozen(attacked):
        return attack(attacked, (x + noise_std * unit).clamp(0, 1), y).detach(), y


class Pairs(NamedTuple):
    """Some of a step's images: adversarial and clean (b, c, h, w), labels (b,), and the numbers of their draws (b,)."""

    x_adv: Tensor
    x: Tensor
    y: Tensor
    draw: Tensor


class PairBatches(StepBatches[Pairs]):
    """The clean images of each step with their adversarial ones; arguments as of `Finetuner`."""

    def __init__(
        self, images: Images, adversarial: Tensor | Images, batch_size: int, *, seed: int, processes: Processes
    ) -> None:
        expected = _shape(images)
        found = tuple(adversarial.shape) if isinstance(adversarial, Tensor) else _shape(adversarial)
        if found != expected:
            raise ValueError(f"expected one adversarial image for each clean one {expected}, got {found}")
        self.images, self.adversarial = images, adversarial
        sources = (images,) if isinstance(adversarial, Tensor) else (images, adversarial)
        plan = plan_of_all(images, batch_size, seed=seed, purpose="finetune")
        super().__init__(sources, plan, batch_size, processes)

    def attacked(self, rows: Tensor | slice) -> Tensor:
        """Adversarial images of some positions."""
        stored = self.adversarial
        if not isinstance(stored, Tensor):
            return stored.batch(rows)[0]
        return stored[send(rows, stored.device) if isinstance(rows, Tensor) else rows]

    def take(self, chosen: Tensor, draw: Tensor) -> Pairs:
        """Both kinds of images of these positions."""
        return Pairs(self.attacked(chosen), *self.images.batch(chosen), send(draw, self.device))


class Finetuner(BaseTrainer):
    """Stage II (Eq. 6): trains a purifier's model, in place, on stored adversarial images.

    The loss is `class_weight` CE(classifier(P(x_adv)), y) + `mu` L(x), L being the model's own training loss on clean
    images. It logs the two terms and the accuracy on the purified images.

    Args:
        purifier: P, one that is differentiable in its weights.
        classifier: images to logits, kept in eval mode and never changed.
        images: the clean training images, in memory or not, with batches on the device where the training shall run.
        adversarial: the result of `adversarial_images`, (n, c, h, w) in the same order; or a set that holds the same,
            of which batches are read when they are needed. Its labels are not used.

    Raises:
        ValueError: if the weights get no gradient through the purifier, or the images do not fit.
        TypeError: if the purifier has no model.
    """

    def __init__(
        self,
        settings: FinetuneSettings,
        purifier: Purifier,
        classifier: nn.Module,
        images: Images,
        adversarial: Tensor | Images,
        *,
        compute: ComputeSettings | None = None,
        processes: Processes = ALONE,
        seed: int,
    ) -> None:
        self.settings, self.purifier, self.classifier, self.seed = settings, purifier, classifier.eval(), seed
        batches = PairBatches(images, adversarial, settings.batch_size, seed=seed, processes=processes)
        self.model = _model(purifier)
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        _check_trainable(purifier, parameters, batches.attacked(slice(1)))
        optimizer = torch.optim.AdamW(parameters, lr=settings.lr, weight_decay=settings.weight_decay)
        super().__init__({"model": self.model}, batches, optimizer, compute=compute, processes=processes)

    def rate(self, step: int) -> float:
        """A cosine to zero."""
        return cosine(step, steps=self.settings.steps, peak=self.settings.lr)

    def loss(self, x_adv: Tensor, x: Tensor, y: Tensor, draw: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """The two terms, and the accuracy on the purified images."""
        purified = self.purifier.differentiable(x_adv, seed=self.seed, index=draw)
        with frozen(self.classifier):
            logits = self.classifier(purified).float()
        class_loss = F.cross_entropy(logits, y)
        own = self._own_loss(x, draw) if self.settings.mu > 0 else torch.zeros_like(class_loss)
        accuracy = (logits.argmax(dim=1) == y).float().mean()
        metrics = {"class_loss": class_loss, "own_loss": own, "accuracy": accuracy}
        return self.settings.class_weight * class_loss + self.settings.mu * own, metrics

    def _own_loss(self, x: Tensor, index: Tensor) -> Tensor:
        """The model's training loss on clean images."""
        if not isinstance(self.model, (MaskedAutoencoder, MaskDiT)):
            return _denoising_loss(self.model, x, self.seed, index)
        values = noise.uniform((self.model.tokens,), seed=self.seed, purpose="own mask", index=index)
        mask = random_mask(values, self.settings.mask_rate)
        if isinstance(self.model, MaskedAutoencoder):
            return self.model.loss(x, mask).mean()
        sigma = log_normal_sigma(noise.normal((), seed=self.seed, purpose="own level", index=index))
        unit = noise.normal(x.shape[1:], seed=self.seed, purpose="own noise", index=index)
        return masked_denoising_loss(self.model, 2 * x - 1, sigma=sigma, noise=unit, mask=mask).mean()


def _shape(images: Images) -> tuple[int, ...]:
    """What all images of a set would be as one tensor."""
    info = images.info
    return len(images), info.channels, info.image_size, info.image_size


def _model(purifier: Purifier) -> nn.Module:
    """What a purifier computes with."""
    model = getattr(purifier, "model", None)
    if not isinstance(model, nn.Module):
        raise TypeError(f"{type(purifier).__name__} has no model that could be trained")
    return model


def _denoising_loss(denoiser: nn.Module, x: Tensor, seed: int, index: Tensor) -> Tensor:
    """EDM's training loss of any other denoiser, a mean over pixels and images."""
    loss = EDMLoss()
    rnd, unit = loss.draw(x.shape[1:], seed=seed, index=index)
    return loss(denoiser, 2 * x - 1, rnd=rnd, noise=unit).mean()


def _check_trainable(purifier: Purifier, parameters: list[nn.Parameter], x: Tensor) -> None:
    """Refuse a purifier through which the weights get no gradient; a silent zero would look like training."""
    if purifier.grad == "identity":
        raise ValueError("the weights get no gradient through grad='identity'; use another backward rule")
    if not parameters:
        raise ValueError("the purifier's model has no trainable parameters; was it frozen with requires_grad_(False)?")
    index = torch.zeros(1, dtype=torch.int64, device=x.device)
    with torch.enable_grad():
        purified = purifier.differentiable(x, seed=0, index=index)
        weights = torch.linspace(0.5, 1.5, purified.numel(), device=x.device, dtype=x.dtype).view_as(purified)
        gradients = (
            torch.autograd.grad((weights * purified).sum(), parameters, allow_unused=True)
            if purified.requires_grad
            else ()
        )
    if not any(gradient is not None and bool((gradient != 0).any()) for gradient in gradients):
        raise ValueError(
            f"no weight gets a gradient through {type(purifier).__name__}; train through MAEReconstruction, "
            "OneStepDenoise, or sign steps with a curved backward rule"
        )
