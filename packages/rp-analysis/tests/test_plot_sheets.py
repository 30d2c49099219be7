"""Contact sheets: what is drawn where."""

import numpy as np
import pytest
import torch
from rp_analysis.plots.sheets import HIDDEN, PAGE, plot_image_grid


def page(plot):
    """The drawn pixels (height, width, 3)."""
    (axes,) = plot.figure.axes
    (image,) = axes.images
    return np.asarray(image.get_array())


def test_every_image_stands_in_its_row_and_column() -> None:
    first, second = torch.rand(3, 1, 4, 5), torch.rand(2, 1, 4, 5)
    plot = plot_image_grid({"first": first, "second": second}, title="sheet", columns=("a", "b", "c"))
    drawn = page(plot)
    assert drawn.shape == (4 + 1 + 4, 5 + 1 + 5 + 1 + 5, 3)
    for top, row in ((0, first), (5, second)):
        for j, image in enumerate(row):
            tile = drawn[top : top + 4, 6 * j : 6 * j + 5]
            assert np.array_equal(tile, image.permute(1, 2, 0).expand(-1, -1, 3).numpy())
    assert (drawn[4] == PAGE).all()
    assert (drawn[5:, 12:] == PAGE).all()  # the second row has no third image
    (axes,) = plot.figure.axes
    assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]
    assert [label.get_text() for label in axes.get_xticklabels()] == ["a", "b", "c"]
    assert axes.get_title() == "sheet"


def test_colours_are_kept_clipped_and_hidden_pixels_have_their_own() -> None:
    image = torch.rand(1, 3, 2, 2)
    image[0, 0, 0, 0], image[0, 2, 1, 1] = 1.5, -0.5
    image[0, :, 0, 1] = torch.nan
    drawn = page(plot_image_grid({"one": image}))
    assert drawn[0, 0, 0] == 1.0
    assert drawn[1, 1, 2] == 0.0
    assert np.allclose(drawn[0, 1], HIDDEN)
    assert np.array_equal(drawn[1, 0], image[0, :, 1, 0].numpy())


def test_the_numbers_say_what_was_drawn_and_the_images_are_left_alone(tmp_path) -> None:
    image = torch.full((2, 1, 2, 2), 0.25)
    image[1, 0, 0] = torch.nan
    before = image.clone()
    plot = plot_image_grid({"one": image})
    assert plot.rows == [{"row": "one", "column": 0, "mean": 0.25}, {"row": "one", "column": 1, "mean": 0.25}]
    assert torch.equal(image.nan_to_num(-1), before.nan_to_num(-1))
    names = {path.name for path in plot.save(tmp_path / "sheet", formats=("png",))}
    assert names == {"sheet.png", "sheet.json", "sheet.csv"}


def test_what_cannot_be_drawn_is_said() -> None:
    with pytest.raises(ValueError, match="nothing to draw"):
        plot_image_grid({})
    with pytest.raises(ValueError, match=r"of one size and m >= 1, got a \(1, 1, 2, 2\), b \(1, 1, 3, 3\)"):
        plot_image_grid({"a": torch.zeros(1, 1, 2, 2), "b": torch.zeros(1, 1, 3, 3)})
    with pytest.raises(ValueError, match=r"got a \(0, 1, 2, 2\)"):
        plot_image_grid({"a": torch.zeros(0, 1, 2, 2)})
    with pytest.raises(ValueError, match=r"got a \(1, 2, 2, 2\)"):
        plot_image_grid({"a": torch.zeros(1, 2, 2, 2)})
    with pytest.raises(ValueError, match="a name for each of 2 columns, got 1"):
        plot_image_grid({"a": torch.zeros(2, 1, 2, 2)}, columns=("x",))
