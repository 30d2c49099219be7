"""What describes a data set, and the names of its splits; importing this module does not import torch."""

from dataclasses import dataclass, field

SPLITS = ("train", "validation", "test")


@dataclass(frozen=True, kw_only=True, slots=True)
class DatasetInfo:
    """One data set's description: sizes, normalisation, conventional budgets, and where it comes from."""

    name: str
    class_names: tuple[str, ...]
    channels: int
    image_size: int
    mean: tuple[float, ...]  # per channel, what the field's models subtract, of images in [0, 1]
    std: tuple[float, ...]
    eps: dict[str, float] = field(default_factory=dict)  # the field's usual radius per norm, in [0, 1] pixel units
    split_sizes: dict[str, int] = field(default_factory=dict)
    source: str = ""
    licence: str = ""

    @property
    def num_classes(self) -> int:
        """The number of classes."""
        return len(self.class_names)
