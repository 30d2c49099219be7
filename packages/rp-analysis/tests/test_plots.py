"""Every figure is drawn, shows the numbers it was given, and is saved with them."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from rp_analysis import classification_dimension
from rp_analysis.plots import (
    GeometryPoint,
    LossTrend,
    Sensitivity,
    StrengthPoint,
    plot_alignment_uniformity,
    plot_alignment_uniformity_accuracy,
    plot_amv_over_iterations,
    plot_cknna_comparison,
    plot_cknna_scatter,
    plot_component_accuracy,
    plot_gradient_difference,
    plot_latent_sheet,
    plot_perturbation_saliency,
    plot_radial_profiles,
    plot_robustness_curves,
    plot_sae_loss,
    plot_sensitivity,
    plot_strength_sweep,
)
from rp_analysis.plots.attention import TargetMaps, plot_target_attention
from rp_analysis.plots.dra import RobustnessCurve
from rp_analysis.plots.mae_pure import plot_inequality, plot_kernel_approximation, plot_layer_amv, plot_loss_and_amv
from rp_analysis.sae_evaluation import Reconstruction, SaeRun, TopActivations
from rp_analysis.similarity import SimilarityPoint

POINTS = [SimilarityPoint("Wang", 0.67, 0.31), SimilarityPoint("Cui", 0.65, 0.29), SimilarityPoint("Rice", 0.53, 0.2)]
STANDARD = [point._replace(score=0.15) for point in POINTS]
GEOMETRY = [GeometryPoint("ST", -0.9, 3.2, 0.95, 0.0), GeometryPoint("AT", -0.1, 2.1, 0.85, 0.55)]
EPS = (0.0, 4 / 255, 8 / 255)
CURVES = {
    "ST": RobustnessCurve(EPS, (0.95, 0.1, 0.0), (0.93, 0.08, 0.0), (0.97, 0.12, 0.02), 100),
    "AT": RobustnessCurve(EPS, (0.85, 0.7, 0.5), (0.82, 0.66, 0.46), (0.88, 0.74, 0.54), 100),
}
TREND = LossTrend([0, 4 / 255, 8 / 255], [0.1, 0.2, 0.25], [0.0, 0.3, 0.32])
WEIGHTS = torch.tensor([0.2, 0.1, float("nan"), 0.3])
TARGET = TargetMaps(torch.full((1, 8, 8), 0.5), 2, {"clean": WEIGHTS, "adversarial": 2 * WEIGHTS})
MAPS = {"ST": torch.rand(8, 8, generator=torch.Generator().manual_seed(0)), "AT": torch.ones(8, 8)}


def sae_runs(level: float) -> list[SaeRun]:
    return [
        SaeRun(k, seed, Reconstruction(level / k + 0.01 * seed, 0.1, 0.1, k, 0.0))
        for k in (8, 16, 32)
        for seed in (0, 1)
    ]


def dimension():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 6, generator=generator)
    features = torch.randn(60, 6, generator=generator)
    labels = (features @ weight.T).argmax(dim=1)
    noisy = features + 0.5 * torch.randn(60, 6, generator=generator)
    return classification_dimension(features, labels, weight, adversarial=noisy)


PLOTS = {
    "dra 1": lambda: plot_cknna_scatter(POINTS),
    "dra 3a": lambda: plot_perturbation_saliency(MAPS),
    "dra 3b": lambda: plot_robustness_curves(CURVES),
    "dra 4": lambda: plot_alignment_uniformity(GEOMETRY),
    "dra 5": lambda: plot_alignment_uniformity_accuracy(GEOMETRY),
    "dra 6": lambda: plot_sae_loss({"AT": sae_runs(3), "DM-AT": sae_runs(2), "DM-AT+DRA": sae_runs(1.5)}),
    "dra 7": lambda: plot_component_accuracy(dimension()),
    "dra 8": lambda: plot_strength_sweep(
        [StrengthPoint(0.5, 0.69, 0.36), StrengthPoint(1.2, 0.7, 0.363)], StrengthPoint(0, 0.683, 0.357)
    ),
    "dra 9": lambda: plot_cknna_comparison(POINTS, STANDARD),
    "dra 10": lambda: plot_gradient_difference({"diffusion": MAPS["ST"] - 0.5, "discriminative": MAPS["AT"] / 8}),
    "mae-pure 5": lambda: plot_sensitivity({"step size": Sensitivity([1, 2], [0.9, 0.8], [0.5, 0.6])}),
    "mae-pure 6": lambda: plot_amv_over_iterations({"MAE": {"MAE-Pure": [0.3, 0.2], "RMAE-Pure": [0.4, 0.1]}}),
    "mae-pure 2": lambda: plot_target_attention([TARGET, TARGET]),
    "mae-pure 4": lambda: plot_loss_and_amv(
        {"MAE": {"adversarial": TREND._replace(loss_error=[0.1] * 3, amv_error=[0.1] * 3), "random signs": TREND}},
        xlabel="radius",
        scale=255,
    ),
    "mae-pure layers": lambda: plot_layer_amv({"MAE": ([0, 0.1], [[0.0, 0.0], [0.2, 0.3]])}, xlabel="radius"),
    "mae-pure theorem 3.2": lambda: plot_inequality({"MAE": {"weak": ([0.1, 1], [1, 0.5])}}),
    "mae-pure theorem 3.1": lambda: plot_kernel_approximation({"all": {"weak": ([0.1], [0.2])}}, ylabel="right side"),
    "radial": lambda: plot_radial_profiles(MAPS),
    "sheet": lambda: plot_latent_sheet(
        torch.rand(4, 3, 5, 5),
        TopActivations(torch.tensor([[2, 1], [3, -1]]), torch.tensor([[2.0, 1], [1, 0]])),
        [1, 0],
    ),
}


@pytest.mark.parametrize("name", PLOTS)
def test_every_figure_is_saved_with_its_numbers(name: str, tmp_path: Path) -> None:
    plot = PLOTS[name]()
    written = plot.save(tmp_path / "figure", formats=("svg",) if name != "dra 1" else ("pdf", "svg", "png"))
    assert all(path.stat().st_size > 0 for path in written)
    assert json.loads((tmp_path / "figure.json").read_text()) == plot.rows
    with (tmp_path / "figure.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(plot.rows) > 0


def test_saving_twice_writes_the_same_bytes(tmp_path: Path) -> None:
    plot = PLOTS["dra 4"]()
    first, second = (plot.save(tmp_path / name) for name in "ab")
    for a, b in zip(first, second, strict=True):
        assert a.read_bytes() == b.read_bytes(), a.suffix


def test_drawn_curves_are_the_given_numbers() -> None:
    (axes,) = PLOTS["dra 3b"]().figure.axes
    for line, curve in zip(axes.get_lines(), CURVES.values(), strict=True):
        assert list(line.get_xdata()) == pytest.approx([0, 4, 8])
        assert list(line.get_ydata()) == pytest.approx([100 * a for a in curve.accuracy])
    looks = {(line.get_color(), line.get_marker(), line.get_linestyle()) for line in axes.get_lines()}
    assert len({look[0] for look in looks}) == len({look[1] for look in looks}) == 2  # colour is not the only cue


def test_iterations_can_be_named() -> None:
    plot = plot_amv_over_iterations({"MAE": {"MAE-Pure": [0.3, 0.2, 0.1]}}, iterations=[0, 20, 25])
    (axes,) = plot.figure.axes
    assert list(axes.get_lines()[0].get_xdata()) == [row["iteration"] for row in plot.rows] == [0, 20, 25]
    with pytest.raises(ValueError, match="must have one length"):
        plot_amv_over_iterations({"MAE": {"MAE-Pure": [0.3, 0.2, 0.1]}}, iterations=[0, 20])


def test_loss_and_amv_stand_above_each_other_with_their_intervals() -> None:
    above, below = PLOTS["mae-pure 4"]().figure.axes
    for axes, values in ((above, TREND.loss), (below, TREND.amv)):
        for line in axes.get_lines():
            assert list(line.get_xdata()) == pytest.approx([0, 4, 8])
            assert list(line.get_ydata()) == list(values)
        (band,) = axes.collections  # one of the two curves has errors
        heights = band.get_paths()[0].vertices[:, 1]
        assert heights.max() == pytest.approx(max(values) + 1.96 * 0.1)


def test_attention_maps_of_a_row_share_one_scale_and_frame_the_target() -> None:
    figure = PLOTS["mae-pure 2"]().figure
    masked, *maps = figure.axes[:3]
    for axes in maps:
        assert axes.images[0].get_clim() == (0, pytest.approx(0.6))
    drawn = maps[0].images[0].get_array()
    assert drawn[0, 0] == pytest.approx(0.2)
    assert drawn[7, 7] == pytest.approx(0.3)
    assert drawn.mask[4:, :4].all()  # the hidden patch, lower left
    (frame,) = masked.patches
    assert frame.get_bbox().bounds == (-0.5, 3.5, 4, 4)


def test_maps_share_one_scale_and_count_frequencies_from_their_origin() -> None:
    plot = PLOTS["dra 3a"]()
    limits = {axes.get_images()[0].get_clim() for axes in plot.figure.axes[:2]}
    assert len(limits) == 1
    assert {row["fy"] for row in plot.rows} == set(range(-4, 4))
    difference = PLOTS["dra 10"]()
    low, high = difference.figure.axes[0].get_images()[0].get_clim()
    assert low == -high
    assert {row["fy"] for row in difference.rows} == set(range(8))


def test_the_component_figure_marks_the_dimensions() -> None:
    result = dimension()
    (axes,) = plot_component_accuracy(result).figure.axes
    labels = {text.get_text() for text in axes.get_legend().get_texts()}
    assert {f"CLS-95: {result.cls95}", f"CLS-99: {result.cls99}", f"robust: {result.robust}"} <= labels


def test_plotting_leaves_matplotlib_settings_alone() -> None:
    import matplotlib

    before = dict(matplotlib.rcParams)
    PLOTS["dra 6"]()
    assert dict(matplotlib.rcParams) == before


def test_numbers_that_json_has_no_word_for_become_null(tmp_path: Path) -> None:
    plot = plot_cknna_scatter([POINTS[0], POINTS[1]._replace(score=float("nan"))])
    plot.save(tmp_path / "f", formats=())
    assert json.loads((tmp_path / "f.json").read_text())[1]["score"] is None


def test_a_file_is_replaced_only_by_a_whole_one(tmp_path: Path) -> None:
    plot = plot_cknna_scatter(POINTS)
    files = {path: path.read_bytes() for path in plot.save(tmp_path / "f")}
    assert sorted(tmp_path.iterdir()) == sorted(files)
    plot.rows.append({"score": {1, 2}})  # type: ignore[dict-item]
    with pytest.raises(TypeError):
        plot.save(tmp_path / "f", formats=())
    assert (tmp_path / "f.json").read_bytes() == files[tmp_path / "f.json"]


def test_labels_of_points_that_lie_close_cover_neither_each_other_nor_the_points() -> None:
    names = ["standard", "at", "at+dra", "dm-at", "dm-at+dra", "dm-at+ikl"]
    far = [0.1 * (i == 5) for i in range(6)]  # an outlier pushes the others together
    close = [GeometryPoint(n, 1 + 0.01 * i + far[i], 2 + 0.004 * (i % 3), 0.9, 0.5) for i, n in enumerate(names)]
    cluster = [SimilarityPoint(n, 0.6 + 0.002 * i + far[i] / 5, 0.3 + 0.0005 * (i % 2)) for i, n in enumerate(names)]
    for plot in (plot_alignment_uniformity_accuracy(close), plot_cknna_scatter(cluster)):
        (axes,) = plot.figure.axes
        plot.figure.draw_without_rendering()
        boxes = [text.get_window_extent() for text in axes.texts]
        points = [axes.transData.transform(xy) for c in axes.collections for xy in c.get_offsets()]
        assert len(boxes) == len(points) == 6
        assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
        assert not any(box.contains(*point) for box in boxes for point in points)
        page = plot.figure.bbox
        assert all(page.x0 <= b.x0 and b.x1 <= page.x1 and page.y0 <= b.y0 and b.y1 <= page.y1 for b in boxes)


def test_nothing_to_draw_is_refused() -> None:
    with pytest.raises(ValueError, match="points is empty"):
        plot_cknna_scatter([])
    with pytest.raises(ValueError, match="accuracies are missing for ST"):
        plot_alignment_uniformity_accuracy([GeometryPoint("ST", 0.0, 1.0)])
    with pytest.raises(ValueError, match="must have one length"):
        plot_loss_and_amv({"MAE": {"adversarial": LossTrend([0, 1], [1.0], [1.0])}}, xlabel="radius")


def test_importing_the_package_loads_neither_torch_nor_matplotlib() -> None:
    code = "import sys, rp_analysis; assert not {'torch', 'matplotlib', 'numpy'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_public_name_can_be_loaded() -> None:
    import rp_analysis

    for name in rp_analysis.__all__:
        assert getattr(rp_analysis, name) is not None
