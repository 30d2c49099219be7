"""Classifiers made of several passes of a random defence: by majority, and by agreement of all.

They are other classifiers than the defence, and each needs a clean control of its own, which `evaluate` makes.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from rp_attacks.defence import with_gradient
from rp_attacks.eot import MeanLogits


class Majority(MeanLogits):
    """Answers with the share of passes that vote for each class; of equal ones the first wins.

    Shares have no gradient: backward it is that of the mean logits of the same passes.
    """

    def with_gradient(self, name: str) -> "Majority":
        """The vote of the defence with one of its backward rules."""
        return type(self)(with_gradient(self.model, name), passes=self.passes, seed=self.seed)

    def _mean(self, x: Tensor, seed: int, index: Tensor) -> Tensor:
        with torch.no_grad():
            logits = [self.one_pass(x, seed, index, number) for number in range(self.passes)]
        votes = torch.stack([F.one_hot(one.argmax(dim=1), one.shape[1]) for one in logits]).to(x).mean(dim=0)
        votes = self._answer(votes)
        if not (torch.is_grad_enabled() and x.requires_grad):
            return votes
        mean = super()._mean(x, seed, index)
        return votes + F.pad(mean - mean.detach(), (0, votes.shape[1] - mean.shape[1]))

    def _answer(self, votes: Tensor) -> Tensor:
        return votes


class Unanimous(Majority):
    """Answers with a class only where all passes agree on it, else with one class more than there are: "don't know".

    It is right where an attacker who may submit `passes` times never succeeds.
    """

    def _answer(self, votes: Tensor) -> Tensor:
        agreed = votes.amax(dim=1, keepdim=True) == 1
        return torch.cat([votes * agreed, (~agreed).to(votes)], dim=1)
