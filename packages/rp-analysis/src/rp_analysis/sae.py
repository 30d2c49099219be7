"""The TopK sparse autoencoder: a representation written as few directions out of many."""

import math
from typing import Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from .arrays import Matrix, as_matrix, column_mean, row_block
from .sparse_code import attach_gradient, decode, select_top_k

InputNorm = Literal["none", "sample", "dataset"]


class Code(NamedTuple):
    """Active latents of b samples: values (b, k) after the ReLU, largest first, and which they are (b, k)."""

    values: Tensor
    latent: Tensor


class TopKSae(nn.Module):
    """x_hat = W_dec TopK(W_enc (x - b_pre) + b_latent) + b_pre, the kept values passed through a ReLU.

    State-dict keys and shapes are those of OpenAI's sparse_autoencoder: `pre_bias` (d,), `latent_bias` (n,),
    `encoder.weight` (n, d), `decoder.weight` (d, n).

    Args:
        n_latents: size of the dictionary; 8 to 32 times `d` is common.
        input_norm: "none"; "sample": each sample minus its mean over features, divided by its standard deviation;
            "dataset": minus the features' mean, divided by one number, both found by `fit_inputs` and stored with
            the weights. The reconstruction is mapped back in each case.
        seed: of the initial weights; the decoder starts as the encoder's transpose with columns of unit norm.

    Source: Gao et al. 2025, arXiv:2406.04093.
    """

    mean: Tensor
    scale: Tensor

    def __init__(self, d: int, n_latents: int, k: int, *, input_norm: InputNorm = "none", seed: int = 0) -> None:
        super().__init__()
        if d < 1 or not 1 <= k <= n_latents:
            raise ValueError(f"d must be positive and k in [1, n_latents], got d={d}, k={k}, n_latents={n_latents}")
        if input_norm not in get_args(InputNorm):
            raise ValueError(f"input_norm must be one of {get_args(InputNorm)}, got {input_norm!r}")
        self.d, self.n_latents, self.k, self.input_norm = d, n_latents, k, input_norm
        self.encoder = nn.Linear(d, n_latents, bias=False)
        self.decoder = nn.Linear(n_latents, d, bias=False)
        self.pre_bias = nn.Parameter(torch.zeros(d))
        self.latent_bias = nn.Parameter(torch.zeros(n_latents))
        if input_norm == "dataset":
            self.register_buffer("mean", torch.zeros(d))
            self.register_buffer("scale", torch.ones(()))
        with torch.no_grad():
            bound = 1 / math.sqrt(d)
            self.encoder.weight.uniform_(-bound, bound, generator=torch.Generator().manual_seed(seed))
            # (d, n) by shape, but with each direction contiguous: decoding reads whole directions.
            self.decoder.weight = nn.Parameter(self.encoder.weight.clone().T)
        self.normalize_decoder_()

    @property
    def directions(self) -> Tensor:
        """The decoder's directions as rows, (n, d)."""
        return self.decoder.weight.T

    def fit_inputs(self, features: Matrix) -> None:
        """Sets the statistics of input_norm="dataset", so that the mean squared norm of the inputs is d."""
        if self.input_norm != "dataset":
            return
        x = as_matrix(features, "features", rows=2, keep_half=True)
        mean = column_mean(x)
        blocks = x.split(row_block(self.d))
        squares = sum(float((rows.double() - mean).square().sum()) for rows in blocks) / x.numel()
        if squares == 0:
            raise ValueError("features are the same for every sample: there is nothing to reconstruct")
        self.mean.copy_(mean)
        self.scale.fill_(math.sqrt(squares))

    def normalize_inputs(self, x: Tensor) -> tuple[Tensor, Tensor | float, Tensor | float]:
        """The inputs as the encoder sees them, with the shift and scale that map a reconstruction back."""
        if self.input_norm == "none":
            return x, 0.0, 1.0
        if self.input_norm == "dataset":
            return (x - self.mean) / self.scale, self.mean, self.scale
        mean = x.mean(dim=1, keepdim=True)
        std = (x - mean).std(dim=1, keepdim=True)
        return (x - mean) / (std + 1e-5), mean, std

    def encode_normalized(self, x: Tensor) -> Code:
        """The sparse code of normalised inputs (b, d), differentiable in x and the encoder."""
        centred = x - self.pre_bias
        values, index = select_top_k(centred, self.encoder.weight, self.latent_bias, self.k)
        values = attach_gradient(values, index, centred, self.encoder.weight, self.latent_bias)
        return Code(values.relu(), index)

    def decode_normalized(self, code: Code) -> Tensor:
        """The reconstruction (b, d) of a code, before the input normalisation is undone."""
        return decode(code.values, code.latent, self.directions) + self.pre_bias

    def encode(self, x: Tensor) -> Code:
        """The sparse code of features (b, d)."""
        return self.encode_normalized(self.normalize_inputs(self._checked(x))[0])

    def latents(self, x: Tensor) -> Tensor:
        """The code of features (b, d) as a dense matrix (b, n); for inspection, not for training."""
        code = self.encode(x)
        return code.values.new_zeros(len(x), self.n_latents).scatter(1, code.latent, code.values)

    def forward(self, x: Tensor) -> Tensor:
        """The reconstruction of features (b, d)."""
        normalized, shift, scale = self.normalize_inputs(self._checked(x))
        return self.decode_normalized(self.encode_normalized(normalized)) * scale + shift

    @torch.no_grad()
    def normalize_decoder_(self) -> None:
        """Scales each decoder direction to unit norm, in place."""
        directions = self.directions
        directions.div_(torch.linalg.vector_norm(directions, dim=1, keepdim=True).clamp_min(1e-12))

    def _checked(self, x: Tensor) -> Tensor:
        if x.ndim != 2 or x.shape[1] != self.d:
            raise ValueError(f"features must be (samples, {self.d}), got {tuple(x.shape)}; flatten tokens into samples")
        return x
