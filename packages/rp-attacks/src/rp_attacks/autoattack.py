"""AutoAttack, FAB and Square from pyautoattack, made safe to call.

The library casts images to float32, resets the global generators, removes tracers, lets FAB fill the gradients of
parameters and Square overwrite the logits; none of this reaches the caller. Its own accounting is not used: it judges a
random defence on single lucky passes.
"""

import logging
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, get_args

import torch
from torch import Tensor

from rp_attacks.attack import ImageAttack
from rp_attacks.defence import Classifier, FixedNoise, with_gradient
from rp_attacks.noise import derive_seed
from rp_attacks.norms import Norm, project
from rp_attacks.problem import check_choice, check_logits, check_positive, check_radius
from rp_attacks.rng import OwnNoise, isolated
from rp_attacks.watch import tell_part

Version = Literal["standard", "plus", "rand"]
Part = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]
logging.getLogger("auto-attack").addHandler(logging.NullHandler())  # else Python prints the library's advice itself
_LIBRARY_NORM = {"linf": "Linf", "l2": "L2", "l1": "L1"}


@dataclass(frozen=True, kw_only=True, slots=True)
class AutoAttack(ImageAttack):
    """AutoAttack as the literature runs it (Croce & Hein 2020, arXiv:2003.01690), through pyautoattack.

    Images that no part of it fools come back unmodified. Random numbers are shared by the images of one call: the
    result is a function of (seed, images of the call).
    """

    shares_randomness: ClassVar[bool] = True  # among the images of one call

    eps: float = 8 / 255  # in units of [0, 1] pixels
    norm: Norm = "linf"
    version: Version = "standard"
    attacks: tuple[Part, ...] | None = None  # these parts, with the version's settings; None: all of the version
    batch_size: int = 128
    grad: str = "exact"  # backward rule, of those that the defence offers
    library_seed: int | None = None  # the library's, as AutoAttack(seed=...) takes it; None: made from the call's seed

    def __post_init__(self) -> None:
        check_radius(self.norm, self.eps)
        check_choice("version", self.version, get_args(Version))
        check_positive(batch_size=self.batch_size)
        for part in self.attacks or ():
            check_choice("attacks", part, get_args(Part))

    def _perturb(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        return _by_batches(self, with_gradient(model, self.grad), x, y, seed, index, self.batch_size)

    def _one_batch(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        from pyautoattack import AutoAttack as Library

        seen = OwnNoise(model, seed=derive_seed(seed, "autoattack", int(index[0])), index=index)
        logits = seen(x)
        check_logits(logits, y)
        library = Library(
            seen,
            eps=self.eps,
            norm=_LIBRARY_NORM[self.norm],
            version=self.version,
            seed=seed % 2**31 if self.library_seed is None else self.library_seed,
            device=x.device,
        )
        if self.attacks is not None:
            library.attacks_to_run = list(self.attacks)
        _fit_to_classes(library, logits.shape[1])
        if "square" in library.attacks_to_run:
            _check_height(x, self.norm)
        return _by_groups(library, _plain(x), y, index)


def _by_groups(library: Any, x: Tensor, y: Tensor, index: Tensor) -> Tensor:
    """The library's images; Square runs apart from the parts before it, so that what it alone broke is known.

    The verdict is that of one call: the library seeds itself anew for each part and goes on with images still right.
    """
    parts = list(library.attacks_to_run)
    at = parts.index("square") if "square" in parts[1:] else len(parts)
    images, rows = x.clone(), torch.arange(len(x), device=x.device)
    for number, group in enumerate((parts[:at], parts[at : at + 1], parts[at + 1 :])):
        if not group or len(rows) == 0:
            continue
        library.attacks_to_run = group
        made, answer = library.run_standard_evaluation(x[rows], y[rows], batch_size=len(rows))
        images[rows] = made.detach()
        broken = answer.to(y.device) != y[rows]
        tell_part("-".join(group), index[rows[broken]], blind=number == 1)
        rows = rows[~broken]
    return images


def _by_batches(
    attack: "AutoAttack | FAB | LibrarySquare",
    model: Classifier,
    x: Tensor,
    y: Tensor,
    seed: int,
    index: Tensor,
    size: int,
) -> Tensor:
    """The library's images in the ball; known noise belongs to an image, and the library does not say which it asks."""
    if attack.eps == 0:
        return x.clone()
    rows = torch.arange(len(x), device=x.device).split(1 if isinstance(model, FixedNoise) else size)
    with isolated(x.device), torch.no_grad():
        done = [attack._one_batch(model, x[part], y[part], seed, index[part]) for part in rows]
    return project(torch.cat(done).to(x.dtype), x, norm=attack.norm, eps=attack.eps)


def _plain(x: Tensor) -> Tensor:
    """The images as the library reshapes them: float32, and contiguous also where they came channels last."""
    return x.float().contiguous()


def _check_height(x: Tensor, norm: Norm) -> None:
    """Refuse images that the library's Square cannot divide into five stripes, as it does in L2 and L1."""
    if norm != "linf" and x.shape[2] < 5:
        raise ValueError(
            f"Square in {norm} needs images of at least 5 rows, got {tuple(x.shape[1:])}; leave it out "
            "(AutoAttack(attacks=...) takes the other parts), or attack in Linf"
        )


def _fit_to_classes(library: Any, classes: int) -> None:
    """Limit the number of target classes to those that there are, and refuse losses that are not defined."""
    least = {"apgd-dlr": 3, "apgd-t": 4}
    undefined = [part for part in library.attacks_to_run if classes < least.get(part, 2)]
    if undefined:
        rest = tuple(part for part in library.attacks_to_run if part not in undefined)
        raise ValueError(
            f"{', '.join(undefined)} needs at least {max(least[part] for part in undefined)} classes, "
            f"the model has {classes}; pass attacks={rest!r}"
        )
    for part in (library.apgd_targeted, library.fab):
        part.n_target_classes = min(part.n_target_classes, classes - 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class FAB(ImageAttack):
    """Fast Adaptive Boundary attack, a minimum-norm attack (Croce & Hein 2020, arXiv:1907.02044), from pyautoattack.

    White box: as a "black box" it exists only as a transfer (`Transfer(FAB(...), source)`). Images whose adversarial
    version lies farther than eps come back unmodified.
    """

    shares_randomness: ClassVar[bool] = True  # among the images of one call

    eps: float = 8 / 255  # in units of [0, 1] pixels
    norm: Norm = "linf"
    steps: int = 100
    restarts: int = 1
    targets: int | None = 9  # classes tried one by one; None: the untargeted form
    alpha_max: float = 0.1
    eta: float = 1.05  # overshoot
    beta: float = 0.9  # pull back towards the image
    grad: str = "exact"

    def __post_init__(self) -> None:
        check_radius(self.norm, self.eps)
        check_positive(steps=self.steps, restarts=self.restarts)
        if self.targets is not None:
            check_positive(targets=self.targets)

    def _perturb(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        return _by_batches(self, with_gradient(model, self.grad), x, y, seed, index, len(x))

    def _one_batch(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        from pyautoattack.fab_pt import FABAttack_PT

        seen = OwnNoise(model, seed=derive_seed(seed, "fab", int(index[0])), index=index)
        logits = seen(x)
        check_logits(logits, y)
        attack = FABAttack_PT(
            seen,
            norm=_LIBRARY_NORM[self.norm],
            eps=self.eps,
            n_iter=self.steps,
            n_restarts=self.restarts,
            alpha_max=self.alpha_max,
            eta=self.eta,
            beta=self.beta,
            targeted=self.targets is not None,
            n_target_classes=min(self.targets or 1, logits.shape[1] - 1),
            seed=seed % 2**31,
            device=x.device,
        )
        images: Tensor = attack.perturb(_plain(x), y)
        return images.detach()


@dataclass(frozen=True, kw_only=True, slots=True)
class LibrarySquare(ImageAttack):
    """Square attack of pyautoattack (Andriushchenko et al. 2020, arXiv:1912.00049), for comparison with tables.

    One square and one sign are shared by all images of a call, and an image stops at its first non-positive margin: on
    a random defence that is one lucky pass. Prefer `Square`.
    """

    shares_randomness: ClassVar[bool] = True  # among the images of one call

    eps: float = 8 / 255  # in units of [0, 1] pixels
    norm: Norm = "linf"
    queries: int = 5000
    p_init: float = 0.8
    rescale_schedule: bool = False  # AutoAttack does not rescale

    def __post_init__(self) -> None:
        check_radius(self.norm, self.eps)
        check_positive(queries=self.queries, p_init=self.p_init)

    def _perturb(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        return _by_batches(self, model, x, y, seed, index, len(x))

    def _one_batch(self, model: Classifier, x: Tensor, y: Tensor, seed: int, index: Tensor) -> Tensor:
        from pyautoattack.square import SquareAttack

        _check_height(x, self.norm)
        seen = OwnNoise(model, seed=derive_seed(seed, "square", int(index[0])), index=index)
        check_logits(seen(x), y)
        attack = SquareAttack(
            seen,
            norm=_LIBRARY_NORM[self.norm],
            eps=self.eps,
            n_queries=self.queries,
            p_init=self.p_init,
            resc_schedule=self.rescale_schedule,
            seed=seed % 2**31,
            device=x.device,
        )
        images: Tensor = attack.perturb(_plain(x), y)
        return images.detach()
