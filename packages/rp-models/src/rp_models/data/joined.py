"""Two sets of images in one numbering, real ones first: what a `BatchPlan` counts in."""

import torch
from torch import Tensor

from rp_models.data.errors import DataError
from rp_models.data.images import Images, positions
from rp_models.data.info import DatasetInfo
from rp_models.values import send


class JoinedImages:
    """Real images, numbered from 0, followed by synthetic ones; batches come out where those of `real` do.

    Raises DataError if the images have different sizes or classes.
    """

    def __init__(self, real: Images, synthetic: Images) -> None:
        kinds = [(i.info.channels, i.info.image_size, i.info.num_classes) for i in (real, synthetic)]
        if kinds[0] != kinds[1]:
            raise DataError(f"real and synthetic images differ in (channels, size, classes): {kinds[0]}, {kinds[1]}")
        self.real, self.synthetic = real, synthetic.to(real.device)

    @property
    def info(self) -> DatasetInfo:
        """What the real images are."""
        return self.real.info

    @property
    def labels(self) -> Tensor:
        """All labels, int64 (n,), put together on the CPU at each access."""
        return torch.cat([self.real.labels.cpu(), self.synthetic.labels.cpu()])

    @property
    def device(self) -> torch.device:
        """Where batches come out."""
        return self.real.device

    def __len__(self) -> int:
        return len(self.real) + len(self.synthetic)

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """The images of some positions, float32 (b, c, h, w) in [0, 1], and their labels, in the order of the index."""
        chosen = positions(index, len(self))
        made = chosen >= len(self.real)
        if not bool(made.any()):
            return self.real.batch(chosen)
        if bool(made.all()):
            return self.synthetic.batch(chosen - len(self.real))
        x, y = self.real.batch(chosen[~made])
        x_made, y_made = self.synthetic.batch(chosen[made] - len(self.real))
        # the two groups one after the other, then each image at its place
        place = torch.argsort(torch.cat([(~made).nonzero()[:, 0], made.nonzero()[:, 0]]))
        place = send(place, self.device)
        return torch.cat([x, x_made])[place], torch.cat([y, y_made])[place]

    def to(self, device: torch.device | str) -> "JoinedImages":
        """The same two sets with batches on another device."""
        return JoinedImages(self.real.to(device), self.synthetic.to(device))
