"""Training TopK sparse autoencoders on stored features: auxiliary loss, dead latents, seeds, resuming."""

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from .arrays import Matrix, as_matrix, column_mean
from .sae import InputNorm, TopKSae
from .sparse_code import attach_gradient, decode, select_top_k


@dataclass(frozen=True, kw_only=True, slots=True)
class SaeConfig:
    """How a TopK sparse autoencoder is built and trained.

    Defaults are public practice (Gao et al. 2025; the learning-rate rule of Eleuther's sparsify); the DRA paper
    states only k in {8, 16, 32}.
    """

    k: int = 32
    expansion: float = 8.0  # latents = expansion * d
    input_norm: InputNorm = "dataset"
    epochs: int = 20
    batch: int = 4096  # samples; all of them where there are fewer
    lr: float | None = None  # None: 2e-4 / sqrt(latents / 2^14)
    adam_eps: float = 6.25e-10
    clip: float | None = None  # largest norm of the whole gradient
    aux_coef: float = 1 / 32
    auxk: int | None = None  # dead latents asked to explain the residual; None: d // 2
    dead_epochs: float = 1.0  # a latent is dead after this many epochs without firing
    firing: float = 1e-3  # activations above this count as firing
    ema: float | None = None  # e.g. 0.999: evaluate averaged weights
    init_samples: int = 32_768  # for the pre-bias (geometric median) and the scale of the loss
    seed: int = 0

    def __post_init__(self) -> None:
        """Checks ranges."""
        for name in ("k", "expansion", "epochs", "batch", "adam_eps", "dead_epochs", "init_samples"):
            if getattr(self, name) <= 0:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if self.aux_coef < 0 or self.firing < 0 or (self.lr is not None and self.lr <= 0):
            raise ValueError(f"aux_coef and firing must not be negative, lr positive; got {self}")
        if self.ema is not None and not 0 < self.ema < 1:
            raise ValueError(f"ema must be in (0, 1) or None, got {self.ema}")


class SaeStep(NamedTuple):
    """What one optimiser step saw."""

    step: int
    recons_loss: float  # mean squared error over the variance of the initial samples
    aux_loss: float
    dead: int  # latents that have not fired for `dead_epochs`


class SaeTrainer:
    """A sparse autoencoder with its optimiser, counters and place in the data.

    Args:
        features: (n, d) array or tensor; a memory-mapped array is read batch by batch.
        device: where to train; None is the device of `features`, or the CPU for arrays.
    """

    def __init__(self, features: Matrix, config: SaeConfig, *, device: torch.device | str | None = None) -> None:
        x = as_matrix(features, "features", rows=2, keep_half=True)
        self.features, self.config = x, config
        n, d = x.shape
        latents = round(config.expansion * d)
        self.sae = TopKSae(d, latents, config.k, input_norm=config.input_norm, seed=config.seed)
        self.sae.fit_inputs(x)
        self.sae.to(device or x.device)
        self.batch = min(config.batch, n)
        self.steps_per_epoch = n // self.batch
        self.dead_steps = max(1, math.ceil(config.dead_epochs * self.steps_per_epoch))
        self.auxk = min(d // 2 if config.auxk is None else config.auxk, latents)
        self.silent = torch.zeros(latents, dtype=torch.int64, device=self.sae.pre_bias.device)
        self.step = 0
        self.average = [torch.zeros_like(p) for p in self.sae.parameters()] if config.ema else None
        lr = config.lr or learning_rate(latents)
        on_cpu_or_gpu = self.sae.pre_bias.device.type in ("cpu", "cuda")
        self.optimizer = torch.optim.Adam(self.sae.parameters(), lr=lr, eps=config.adam_eps, fused=on_cpu_or_gpu)
        sample = self._initial_samples()
        with torch.no_grad():
            self.sae.pre_bias.copy_(geometric_median(sample))
        variance = float((sample - sample.mean(dim=0)).square().mean())
        if variance == 0:
            raise ValueError("features are the same for every sample: there is nothing to reconstruct")
        self.mse_scale = 1 / variance

    def losses(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Reconstruction and auxiliary loss of normalised inputs (b, d); counts which latents fired."""
        code = self.sae.encode_normalized(x)
        self._count(code.values, code.latent)
        recons = self.sae.decode_normalized(code)
        return self.mse_scale * (recons - x).square().mean(), self._aux_loss(x, (x - recons).detach())

    def train_step(self, x: Tensor) -> SaeStep:
        """One optimiser step on a batch of features (b, d)."""
        x = self.sae.normalize_inputs(x)[0].detach()
        recons_loss, aux_loss = self.losses(x)
        aux_loss = aux_loss.nan_to_num(0.0)
        self.optimizer.zero_grad()
        (recons_loss + self.config.aux_coef * aux_loss).backward()
        self.sae.normalize_decoder_()
        project_decoder_gradient_(self.sae)
        if self.config.clip is not None:
            torch.nn.utils.clip_grad_norm_(self.sae.parameters(), self.config.clip)
        if self.average is not None and self.config.ema is not None:
            for mean, p in zip(self.average, self.sae.parameters(), strict=True):
                mean.lerp_(p.detach(), 1 - self.config.ema)  # before the step, as the reference does
        self.optimizer.step()
        self.step += 1
        dead = int((self.silent > self.dead_steps).sum())
        return SaeStep(self.step, float(recons_loss.detach()), float(aux_loss.detach()), dead)

    def train(self, steps: int | None = None, callback: Callable[[SaeStep], None] | None = None) -> TopKSae:
        """Trains to the end of the configured epochs, or for `steps` more steps."""
        last = self.config.epochs * self.steps_per_epoch
        last = last if steps is None else min(last, self.step + steps)
        for x in self._batches(last):
            done = self.train_step(x)
            if callback is not None:
                callback(done)
        return self.finished()

    def finished(self) -> TopKSae:
        """A copy of the model to evaluate: averaged weights if configured, decoder directions of unit norm."""
        config = self.config
        sae = TopKSae(self.sae.d, self.sae.n_latents, config.k, input_norm=config.input_norm)
        sae.to(self.sae.pre_bias.device)
        sae.load_state_dict(self.sae.state_dict())
        if self.average is not None and config.ema is not None and self.step:
            with torch.no_grad():
                for p, mean in zip(sae.parameters(), self.average, strict=True):
                    p.copy_(mean / (1 - config.ema**self.step))
        sae.normalize_decoder_()
        return sae.eval().requires_grad_(False)

    def save(self, path: str | Path) -> None:
        """Writes everything that `load` needs to one .npz file (arrays and JSON, no pickle), atomically."""
        arrays = {f"model/{key}": value for key, value in self.sae.state_dict().items()}
        arrays["silent"] = self.silent
        for i, p in enumerate(self.sae.parameters()):
            state = self.optimizer.state.get(p, {})
            arrays |= {f"adam/{i}/{key}": value for key, value in state.items()}
            if self.average is not None:
                arrays[f"average/{i}"] = self.average[i]
        meta = {"config": asdict(self.config), "step": self.step, "samples": len(self.features), "d": self.sae.d}
        temporary = Path(f"{path}.tmp")
        with temporary.open("wb") as file:
            stored = {key: value.detach().cpu().numpy() for key, value in arrays.items()}
            np.savez(file, meta=np.array(json.dumps(meta | {"mse_scale": self.mse_scale})), **stored)
        temporary.replace(path)

    @classmethod
    def load(cls, path: str | Path, features: Matrix, *, device: torch.device | str | None = None) -> "SaeTrainer":
        """Continues a saved training on the same features; further steps are those of an unbroken run."""
        with np.load(path, allow_pickle=False) as file:
            stored = {key: file[key] for key in file.files}
        meta = json.loads(str(stored.pop("meta")))
        shape = (meta["samples"], meta["d"])
        if tuple(features.shape) != shape:
            raise ValueError(f"{path} was trained on features of shape {shape}, got {tuple(features.shape)}")
        trainer = cls(features, SaeConfig(**meta["config"]), device=device)
        tensors = {key: torch.from_numpy(value) for key, value in stored.items()}
        prefix = "model/"
        trainer.sae.load_state_dict({k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)})
        trainer.silent.copy_(tensors["silent"])
        trainer.step, trainer.mse_scale = meta["step"], meta["mse_scale"]
        for i, p in enumerate(trainer.sae.parameters()):
            own = {k.rpartition("/")[2]: v for k, v in tensors.items() if k.startswith(f"adam/{i}/")}
            if own:  # the parameter's memory layout, which the fused update needs
                moments = {k: torch.empty_like(p).copy_(v) for k, v in own.items() if k != "step"}
                trainer.optimizer.state[p] = {"step": own["step"].to(p.device)} | moments
            if trainer.average is not None:
                trainer.average[i].copy_(tensors[f"average/{i}"])
        return trainer

    def _initial_samples(self) -> Tensor:
        """Normalised samples for the pre-bias and the scale of the loss, spread over the whole set."""
        rows = min(self.config.init_samples, len(self.features))
        order = _shuffle(len(self.features), self.config.seed, epoch=-1)[:rows]
        return self._inputs(order)

    def _batches(self, last: int) -> Iterator[Tensor]:
        """The batches of steps `self.step` to `last`; the order of an epoch depends on the seed and its number."""
        epoch, order = -1, torch.empty(0)
        while self.step < last:
            if self.step // self.steps_per_epoch != epoch:
                epoch = self.step // self.steps_per_epoch
                order = _shuffle(len(self.features), self.config.seed, epoch)
            start = self.step % self.steps_per_epoch * self.batch
            # sorted, so that a memory-mapped file is read forwards
            chosen = order[start : start + self.batch].sort().values
            yield self.features[chosen.to(self.features.device)].to(self.sae.pre_bias)

    def _inputs(self, chosen: Tensor) -> Tensor:
        x = self.features[chosen.sort().values.to(self.features.device)].to(self.sae.pre_bias)
        return self.sae.normalize_inputs(x)[0].detach()

    @torch.no_grad()
    def _count(self, values: Tensor, index: Tensor) -> None:
        """Steps since each latent fired, this one included: 1 for those of this batch."""
        self.silent[index[values > self.config.firing]] = 0
        self.silent += 1

    def _aux_loss(self, x: Tensor, residual: Tensor) -> Tensor:
        """Normalised error of the residual as the `auxk` strongest dead latents explain it; NaN if it is constant."""
        dead = (self.silent > self.dead_steps).nonzero().squeeze(1)
        if len(dead) == 0 or self.auxk == 0 or self.config.aux_coef == 0:
            return residual.new_zeros(())
        sae, k = self.sae, min(self.auxk, len(dead))
        centred = x - sae.pre_bias
        values, place = select_top_k(centred, sae.encoder.weight[dead], sae.latent_bias[dead], k)
        index = dead[place]
        values = attach_gradient(values, index, centred, sae.encoder.weight, sae.latent_bias).relu()
        explained = decode(values, index, sae.directions) + sae.pre_bias
        target = residual + sae.pre_bias.detach()
        return (explained - target).square().mean() / (target - target.mean(dim=0)).square().mean()


def train_sae(features: Matrix, config: SaeConfig, *, callback: Callable[[SaeStep], None] | None = None) -> TopKSae:
    """Trains a TopK sparse autoencoder on features (n, d); see `SaeTrainer` to stop and resume."""
    return SaeTrainer(features, config).train(callback=callback)


def learning_rate(n_latents: int) -> float:
    """The Adam learning rate for a dictionary of this size, 2e-4 / sqrt(n / 2^14)."""
    return 2e-4 / math.sqrt(n_latents / 2**14)


@torch.no_grad()
def project_decoder_gradient_(sae: TopKSae) -> None:
    """Removes from the decoder's gradient its part along each unit direction, in place."""
    if sae.decoder.weight.grad is not None:
        gradient, directions = sae.decoder.weight.grad.T, sae.directions
        gradient.sub_((gradient * directions).sum(dim=1, keepdim=True) * directions)


def geometric_median(x: Tensor, *, iterations: int = 100, tolerance: float = 1e-10) -> Tensor:
    """Computes the point (d,) with the least sum of distances to samples (n, d), by Weiszfeld's iteration."""
    x = x.detach().double()
    median = column_mean(x)
    for _ in range(iterations):
        weight = 1 / torch.linalg.vector_norm(x - median, dim=1).clamp_min(1e-12)
        previous, median = median, (weight @ x) / weight.sum()
        if float((median - previous).norm()) <= tolerance * max(1.0, float(median.norm())):
            break
    return median


def _shuffle(n: int, seed: int, epoch: int) -> Tensor:
    """The order of n samples in an epoch, the same after resuming."""
    mixed = np.random.SeedSequence([seed, epoch + 1]).generate_state(1, np.uint64)[0]
    return torch.randperm(n, generator=torch.Generator().manual_seed(int(mixed) % 2**63))
