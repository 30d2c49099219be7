"""How training images are varied, per data set; importing this module does not import torch."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class ResizedCrop:
    """A random part of an image, stretched to the full size (Szegedy et al. 2015, arXiv:1409.4842, Section 6)."""

    scale: tuple[float, float] = (0.08, 1.0)  # range of the part's share of the area; drawn uniformly
    ratio: tuple[float, float] = (3 / 4, 4 / 3)  # range of its width over its height; the logarithm is drawn uniformly

    def __post_init__(self) -> None:
        if not 0 < self.scale[0] <= self.scale[1] <= 1:
            raise ValueError(f"scale must be a range of shares of the area in (0, 1], got {self.scale}")
        if not 0 < self.ratio[0] <= self.ratio[1]:
            raise ValueError(f"ratio must be a range of positive numbers, got {self.ratio}")


@dataclass(frozen=True, kw_only=True, slots=True)
class Augmentation:
    """Random changes of a training image, in the order in which they are made; the default makes none."""

    resized_crop: ResizedCrop | None = None  # a random part, stretched to the full size; None for none
    crop_padding: int = 0  # zero pixels around the image, before a crop of the image's size is taken at random
    flip: bool = False  # mirror left and right with probability one half
    # rotate by a uniform angle between minus and plus this many degrees; nearest pixels, zeros outside
    rotation_degrees: float = 0.0
    cutout: int = 0  # side of a square of zeros around a random pixel, cut off at the border; 0 for none

    def __post_init__(self) -> None:
        for name in ("crop_padding", "rotation_degrees", "cutout"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


# CIFAR and SVHN: what DM-AT does to real and synthetic images alike (Wang et al. 2023, arXiv:2302.04638).
# ImageNet: what classifiers are trained with; diffusion models are shown whole images and their mirror images.
AUGMENTATIONS: dict[str, Augmentation] = {
    "digits": Augmentation(crop_padding=1),  # a mirrored digit is no digit
    "fashion-mnist": Augmentation(crop_padding=2, flip=True),
    "cifar10": Augmentation(crop_padding=4, flip=True),
    "cifar100": Augmentation(crop_padding=4, flip=True, rotation_degrees=15.0),
    "svhn": Augmentation(),
    "imagenet": Augmentation(resized_crop=ResizedCrop(), flip=True),
    "imagenet-256": Augmentation(flip=True),
}
