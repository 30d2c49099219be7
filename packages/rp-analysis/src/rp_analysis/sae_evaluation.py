"""What a trained sparse autoencoder is judged by: reconstruction, firing, and what its latents respond to."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from .arrays import Matrix, as_matrix, column_mean, row_block
from .sae import TopKSae
from .sae_training import SaeConfig, train_sae


class Reconstruction(NamedTuple):
    """How well features are reconstructed, over a whole evaluation set."""

    normalized_loss: float  # MSE(x, x_hat) / MSE(x, mean of x): 0 is perfect, 1 is as good as the mean
    mse: float
    per_sample_loss: float  # mean of |x - x_hat|^2 / |x|^2, another definition in use
    active: float  # latents above zero per sample, at most k
    never_fired: float  # share of latents that no sample activates


class SaeRun(NamedTuple):
    """One trained autoencoder of a sweep."""

    k: int
    seed: int
    reconstruction: Reconstruction


class TopActivations(NamedTuple):
    """The samples that activate each latent most: sample indices and activations, (n, m), strongest first.

    Places without an activating sample hold sample -1 and activation 0.
    """

    sample: Tensor
    activation: Tensor


@torch.no_grad()
def evaluate_reconstruction(sae: TopKSae, features: Matrix) -> Reconstruction:
    """Computes the reconstruction loss of features, sums taken over all samples before dividing.

    Args:
        features: (n, d), n >= 2, not those that it was trained on.

    Source: Gao et al. 2025, arXiv:2406.04093; reported in Fig. 6 of the DRA paper.
    """
    x = as_matrix(features, "features", rows=2, keep_half=True)
    mean = column_mean(x)
    error = spread = ratio = active = 0.0
    fired = torch.zeros(sae.n_latents, dtype=torch.bool, device=sae.pre_bias.device)
    for rows in x.split(row_block(sae.d)):
        inputs = rows.to(sae.pre_bias)
        code = sae.encode(inputs)
        squared = (sae(inputs) - inputs).double().square().sum(dim=1)
        error += float(squared.sum())
        spread += float((rows.double() - mean).square().sum())
        ratio += float((squared / inputs.double().square().sum(dim=1).clamp_min(1e-24)).sum())
        active += float((code.values > 0).sum())
        fired[code.latent[code.values > 0]] = True
    if spread == 0:
        raise ValueError("features are the same for every sample: the loss of the mean is zero")
    n = len(x)
    return Reconstruction(error / spread, error / x.numel(), ratio / n, active / n, 1 - float(fired.double().mean()))


def sae_sweep(
    train: Matrix,
    validation: Matrix,
    config: SaeConfig,
    *,
    ks: Sequence[int] = (8, 16, 32),
    seeds: Sequence[int] = (0, 1, 2),
    callback: Callable[[SaeRun], None] | None = None,
) -> list[SaeRun]:
    """Trains one autoencoder per sparsity and seed and evaluates each on held-out features (DRA Fig. 6).

    Args:
        seeds: of weights and batch order.
    """
    runs = []
    for k in ks:
        for seed in seeds:
            sae = train_sae(train, replace(config, k=k, seed=seed))
            runs.append(SaeRun(k, seed, evaluate_reconstruction(sae, validation)))
            if callback is not None:
                callback(runs[-1])
    return runs


@torch.no_grad()
def top_activations(sae: TopKSae, features: Matrix, m: int = 9) -> TopActivations:
    """Finds the m samples that activate each latent most, in one pass with O(n_latents m) memory.

    Args:
        features: (n, d); indices of the result count its rows.

    Returns:
        Indices int64 and activations float32, (n_latents, m).
    """
    x = as_matrix(features, "features", keep_half=True)
    if m < 1:
        raise ValueError(f"m must be at least 1, got {m}")
    device = sae.pre_bias.device
    best = torch.zeros(sae.n_latents, m, device=device)
    where = torch.full((sae.n_latents, m), -1, dtype=torch.int64, device=device)
    start = 0
    for rows in x.split(row_block(sae.d)):
        values, latent = sae.encode(rows.to(sae.pre_bias))
        sample = torch.arange(start, start + len(rows), device=device).unsqueeze(1).expand_as(latent)
        new_best, new_where = _strongest(values.flatten(), latent.flatten(), sample.flatten(), best, m)
        best, place = torch.cat([best, new_best], dim=1).sort(dim=1, descending=True, stable=True)
        where = torch.cat([where, new_where], dim=1).gather(1, place)[:, :m]
        best = best[:, :m]
        start += len(rows)
    return TopActivations(where, best)


def _strongest(values: Tensor, latent: Tensor, sample: Tensor, like: Tensor, m: int) -> tuple[Tensor, Tensor]:
    """The m largest positive values of each latent among a block's entries, and their samples."""
    order = values.argsort(descending=True, stable=True)
    order = order[latent[order].argsort(stable=True)]  # by latent, strongest first
    values, latent, sample = values[order], latent[order], sample[order]
    rank = torch.arange(len(latent), device=latent.device) - torch.searchsorted(latent, latent)
    kept = (rank < m) & (values > 0)
    best, where = torch.zeros_like(like), torch.full(like.shape, -1, dtype=torch.int64, device=like.device)
    best[latent[kept], rank[kept]] = values[kept]
    where[latent[kept], rank[kept]] = sample[kept]
    return best, where
