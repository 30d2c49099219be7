"""CKNNA, mutual nearest neighbours and CKA against golden files, dense twins and their invariances."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rp_analysis import cka, cknna, cknna_matrix, mutual_knn
from rp_analysis.neighbours import Neighbours, _top_k, nearest_neighbours
from rp_analysis.similarity import cknna_of_neighbours
from rp_testing import GOLDEN_FILES
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

GOLDEN = np.load(GOLDEN_FILES / "analysis_similarity.npz")
CASES = {case["name"]: case["k"] for case in json.loads(str(GOLDEN["config"]))["cases"]}


def golden_pair(name: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return tuple(torch.from_numpy(GOLDEN[f"in_{side}_{name}"]).to(dtype) for side in "AB")


def random_pair(n: int, d1: int = 8, d2: int = 12, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    a = torch.randn(n, d1, generator=generator, dtype=torch.float64)
    return a, a @ torch.randn(d1, d2, generator=generator, dtype=torch.float64).tanh()


class LargestTensor(TorchDispatchMode):
    """Records the size of the largest tensor that any operation makes."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        if isinstance(out, Tensor):
            self.elements = max(self.elements, out.untyped_storage().nbytes() // out.element_size())
        return out


def dense_hsic(p: Tensor, q: Tensor) -> Tensor:
    """The unbiased estimator with full matrices."""
    m = len(p)
    ones = torch.ones(m, dtype=p.dtype)
    total = (p @ q).trace() + (ones @ p @ ones) * (ones @ q @ ones) / ((m - 1) * (m - 2))
    return (total - 2 / (m - 2) * (ones @ p @ q @ ones)) / (m * (m - 3))


def dense_cknna(a: Tensor, b: Tensor, k: int, eps: float = 1e-6) -> float:
    """The formula with full n x n matrices and loops over rows."""

    def masked(x: Tensor) -> tuple[Tensor, Tensor]:
        kernel = x @ x.T
        mask = torch.zeros_like(kernel)
        for i, row in enumerate(kernel.tolist()):
            order = sorted((j for j in range(len(row)) if j != i), key=lambda j: -row[j])
            mask[i, order[:k]] = 1
        return kernel, mask

    (p, mask_p), (q, mask_q) = masked(a), masked(b)
    kl = dense_hsic(mask_p * mask_q * p, mask_p * mask_q * q)
    return float(kl / ((dense_hsic(mask_p * p, mask_p * p) * dense_hsic(mask_q * q, mask_q * q)).sqrt() + eps))


@pytest.mark.parametrize("shared", [0, 1, 2])
def test_few_shared_neighbours_score_as_the_dense_formula_says(shared: int) -> None:
    n = 10  # five pairs of mutual neighbours on each side, of which none is a pair of the other side
    place = torch.arange(n)
    index_a, index_b = (place ^ 1).unsqueeze(1), ((((place + 1) % n) ^ 1) - 1).remainder(n).unsqueeze(1)
    index_b[:shared] = index_a[:shared]
    similarity = torch.linspace(0.2, 0.9, n, dtype=torch.float64).unsqueeze(1)
    a, b = Neighbours(index_a, similarity), Neighbours(index_b, similarity.flip(0))
    kernels = [torch.zeros(n, n, dtype=torch.float64).scatter(1, x.index, x.similarity) for x in (a, b)]
    both = (kernels[0] != 0) & (kernels[1] != 0)
    top = dense_hsic(kernels[0] * both, kernels[1] * both)
    below = dense_hsic(kernels[0], kernels[0]) * dense_hsic(kernels[1], kernels[1])
    assert cknna_of_neighbours(a, b, eps=1e-6) == pytest.approx(float(top / (below.sqrt() + 1e-6)), nan_ok=True)
    assert (shared == 0) == (float(top) == 0)


@pytest.mark.parametrize("rows", ["unit", "raw"])
@pytest.mark.parametrize("name", CASES)
def test_scores_in_float64_are_those_of_the_reference(name: str, rows: str) -> None:
    a, b = golden_pair(name, torch.float64)
    unit = rows == "unit"
    for k in CASES[name]:
        expected = float(GOLDEN[f"out_cknna_k{k}_f64_{name}_{rows}"])
        assert cknna(a, b, k, normalize=unit) == pytest.approx(expected, rel=1e-9)
        expected = float(GOLDEN[f"out_mutual_knn_k{k}_f64_{name}_{rows}"])
        # the reference averages in float32
        assert mutual_knn(a, b, k, normalize=unit) == pytest.approx(expected, rel=3e-7)
    for bias in ("biased", "unbiased"):
        expected = float(GOLDEN[f"out_cka_{bias}_f64_{name}_{rows}"])
        assert cka(a, b, unbiased=bias == "unbiased", normalize=unit) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("name", CASES)
def test_float32_features_give_the_float64_scores(name: str) -> None:
    a, b = golden_pair(name, torch.float32)
    for k in CASES[name]:
        # The search runs in float32 but sums do not: only a swapped near-tie could differ, by about 1 / (n k).
        assert cknna(a, b, k) == pytest.approx(float(GOLDEN[f"out_cknna_k{k}_f64_{name}_unit"]), rel=1e-6)


def test_neighbours_of_near_parallel_float32_features_keep_their_order() -> None:
    generator = torch.Generator().manual_seed(0)
    x = 100 + torch.rand(1200, 16, generator=generator)  # 75 k < n: searched in float32
    found = nearest_neighbours(x, 10).index.sort(dim=1).values
    u = torch.nn.functional.normalize(x.double(), dim=1)
    exact = (u @ u.T).fill_diagonal_(-1).topk(10, dim=1).indices.sort(dim=1).values
    assert torch.equal(found, exact)
    plain = torch.nn.functional.normalize(x, dim=1)
    lossy = (plain @ plain.T).fill_diagonal_(-1).topk(10, dim=1).indices.sort(dim=1).values
    assert (lossy == exact).double().mean() < 0.9  # what centring the candidates avoids


@pytest.mark.parametrize(("n", "k"), [(4, 2), (5, 4), (31, 3), (700, 6)])
def test_cknna_equals_the_dense_formula(n: int, k: int) -> None:
    a, b = random_pair(n)
    assert cknna(a, b, k, normalize=False) == pytest.approx(dense_cknna(a, b, k), rel=1e-9, nan_ok=True)


def test_cknna_does_not_depend_on_the_row_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    a, b = random_pair(300)
    whole = cknna(a, b, 5)
    monkeypatch.setattr("rp_analysis.neighbours.row_block", lambda *args, **kwargs: 7)
    assert cknna(a, b, 5) == pytest.approx(whole, rel=1e-12)


def test_memory_stays_below_the_kernel_matrix() -> None:
    n = 6000
    a, b = random_pair(n, d1=4, d2=4)
    with LargestTensor() as seen:
        cknna(a.float(), b.float(), 4)
    assert n < seen.elements < n * n / 10


def test_cknna_with_all_neighbours_is_unbiased_cka() -> None:
    a, b = random_pair(40)
    everyone = cknna(a, b, 39, normalize=False, eps=0)
    assert everyone == pytest.approx(cka(a, b, unbiased=True, eps=0), rel=1e-9)


def test_the_matrix_of_scores_holds_the_single_scores() -> None:
    a, b = random_pair(60)
    c = a.square()
    scores = cknna_matrix([a, c], [a, b, c], k=4)
    expected = [[cknna(x, y, 4) for y in (a, b, c)] for x in (a, c)]
    torch.testing.assert_close(scores, torch.tensor(expected, dtype=torch.float64), rtol=1e-12, atol=0)


def test_the_clamp_cuts_at_the_quantile_of_all_features() -> None:
    a, b = random_pair(50)
    a[3, 2] = 1e4
    ordered = a.abs().flatten().sort().values
    q = ordered[int(0.95 * a.numel())]
    other = b.abs().flatten().sort().values[int(0.95 * b.numel())]
    expected = cknna(a.clamp(-q, q), b.clamp(-other, other), 5)
    assert cknna(a, b, 5, clamp_quantile=0.95) == pytest.approx(expected, rel=1e-12)
    assert cknna(a, b, 5, clamp_quantile=1.0) == pytest.approx(cknna(a, b, 5), rel=1e-12)


@settings(deadline=None, max_examples=15)
@given(seed=st.integers(0, 10_000), scale=st.floats(1e-3, 1e3))
def test_scores_ignore_rotation_scale_and_the_order_of_samples(seed: int, scale: float) -> None:
    a, b = random_pair(30, seed=seed)
    generator = torch.Generator().manual_seed(seed)
    q = torch.linalg.qr(torch.randn(8, 8, generator=generator, dtype=torch.float64)).Q
    order = torch.randperm(30, generator=generator)
    for score in (lambda x, y: cknna(x, y, 5), lambda x, y: mutual_knn(x, y, 5), lambda x, y: cka(x, y, eps=0)):
        expected = score(a, b)
        assert score(scale * a @ q, b) == pytest.approx(expected, rel=1e-7, nan_ok=True)
        assert score(a[order], b[order]) == pytest.approx(expected, rel=1e-7, nan_ok=True)


def test_mutual_knn_and_cka_are_symmetric_and_cknna_is_not() -> None:
    a, b = random_pair(30)
    assert mutual_knn(a, b, 5) == mutual_knn(b, a, 5)
    assert cka(a, b) == pytest.approx(cka(b, a), rel=1e-12)
    # column sums meet row sums in the reference's estimator, and directed masks differ in them
    assert cknna(b, a, 5, normalize=False) == pytest.approx(dense_cknna(b, a, 5), rel=1e-9)
    assert cknna(a, b, 5) != pytest.approx(cknna(b, a, 5), rel=1e-4)


def test_equal_representations_score_one() -> None:
    a, _ = random_pair(100)
    assert cknna(a, 3 * a, 10, eps=0) == pytest.approx(1, rel=1e-9)
    assert mutual_knn(a, 3 * a, 10) == 1
    assert cka(a, 3 * a) == pytest.approx(1, rel=1e-6)
    assert cka(a, 3 * a, unbiased=True) == pytest.approx(1, rel=1e-6)


def test_unrelated_features_inflate_only_biased_cka() -> None:
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.randn(200, d, generator=generator) for d in (40, 56))
    assert cka(a, b) > 0.1
    assert abs(cka(a, b, unbiased=True)) < 0.02


def test_ties_go_to_the_lower_index() -> None:
    x = torch.zeros(8, 2, dtype=torch.float64)
    x[:, 0] = 1
    x[7] = torch.tensor([0.0, 1.0])
    near = nearest_neighbours(x, 3).index
    assert near[0].tolist() == [1, 2, 3]
    assert near[5].tolist() == [0, 1, 2]
    assert near[7].tolist() == [0, 1, 2]


@settings(deadline=None, max_examples=25)
@given(scores=st.lists(st.lists(st.integers(-2, 2), min_size=6, max_size=6), min_size=1, max_size=5))
def test_top_k_is_the_head_of_a_stable_sort(scores: list[list[int]]) -> None:
    score = torch.tensor(scores, dtype=torch.float64)
    for k in range(1, 6):
        expected = [sorted(range(6), key=lambda j, row=row: -row[j])[:k] for row in scores]
        assert _top_k(score, k).tolist() == expected


def test_duplicated_and_zero_rows_are_defined() -> None:
    a, b = random_pair(20)
    a[5:9] = a[4]
    a[10] = 0
    assert math.isfinite(cknna(a, b, 4))
    assert 0 <= mutual_knn(a, b, 4) <= 1
    assert cknna(a, b, 4) == cknna(a, b, 4)


def test_read_only_arrays_and_half_precision_are_taken() -> None:
    a, b = random_pair(30)
    frozen = a.numpy().copy()
    frozen.flags.writeable = False
    assert cknna(frozen, b, 4) == cknna(a, b, 4)
    assert math.isfinite(cknna(a.half(), b.bfloat16(), 4))


def test_inputs_stay_as_they_were() -> None:
    a, b = random_pair(30)
    before = a.clone(), b.clone()
    cknna(a, b, 4, clamp_quantile=0.9)
    cka(a, b)
    assert torch.equal(a, before[0])
    assert torch.equal(b, before[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda a, b: (a[:3], b[:3]), "at least 4 rows"),
        (lambda a, b: (a, b[:-1]), "same samples in the same order, got 30 and 29"),
        (lambda a, b: (a.clone().index_fill_(0, torch.tensor(2), torch.nan), b), "a holds NaN or infinite"),
        (lambda a, b: (a, torch.ones_like(b)), "all rows of b are equal"),
        (lambda a, b: (a.reshape(30, 2, 4), b), "must be a matrix"),
    ],
)
def test_degenerate_features_are_refused(change, message: str) -> None:
    a, b = change(*random_pair(30))
    for score in (lambda: cknna(a, b, 2), lambda: mutual_knn(a, b, 2), lambda: cka(a, b)):
        with pytest.raises(ValueError, match=message):
            score()


def test_options_out_of_range_are_refused() -> None:
    a, b = random_pair(30)
    with pytest.raises(ValueError, match="k must be from 2 to n - 1 = 29"):
        cknna(a, b, 30)
    with pytest.raises(ValueError, match="k must be from 2"):
        cknna(a, b, 1)
    with pytest.raises(ValueError, match="clamp_quantile must be in"):
        cknna(a, b, clamp_quantile=0.0)
    with pytest.raises(TypeError, match=r"convert it with \.float"):
        cknna(a.long(), b)
    with pytest.raises(TypeError, match="a must be a tensor or a numpy array, got list"):
        cknna(a.tolist(), b)
