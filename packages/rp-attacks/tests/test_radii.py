import math
import subprocess
import sys

import pytest
from rp_attacks.radii import check_radius, diameter, usual_radius


def test_a_radius_is_refused_where_no_two_images_are_so_far_apart() -> None:
    for norm, eps, shape, message in [
        ("linf", 8, None, r"^eps 8 is larger than any linf distance of images in \[0, 1\], 1; did you mean 8/255\?$"),
        ("linf", 8, (1, 8, 8), r"^eps 8 is larger than any linf distance of images in"),
        ("l2", 128, (1, 8, 8), r"^eps 128 is larger than any l2 distance of 1x8x8 images in \[0, 1\], 8; did you"),
        ("l1", 65, (1, 8, 8), "larger than any l1 distance of 1x8x8 images"),
        ("l2", -0.5, None, "^eps must not be negative, got -0.5$"),
        ("linf", math.nan, None, "^eps must not be negative, got nan$"),
        ("l3", 1, None, "norm must be one of linf, l2, l1, got 'l3'"),
    ]:
        with pytest.raises(ValueError, match=message):
            check_radius(norm, eps, shape=shape)
    with pytest.raises(ValueError, match=r"^--eps 2 is larger"):
        check_radius("linf", 2, what="--eps")
    for norm, eps, shape in [("linf", 1.0, None), ("l2", 8.0, (1, 8, 8)), ("l1", 64, (1, 8, 8)), ("l2", 100, None)]:
        check_radius(norm, eps, shape=shape)


def test_radii_of_other_images_stand_to_each_other_as_on_cifar() -> None:
    svhn = {norm: usual_radius(norm) for norm in ("linf", "l2", "l1")}
    assert svhn == {"linf": 8 / 255, "l2": 128 / 255, "l1": 12.0}
    assert usual_radius("l2", convention="purification") == 1.0
    # a change of the same size in every pixel fills the same share of each ball
    shape, linf = (1, 8, 8), 0.15
    share = {norm: usual_radius(norm, shape=shape, linf=linf) / usual_radius(norm) for norm in ("linf", "l2", "l1")}
    grown = {norm: size(norm, 64, 0.15) / size(norm, 3072, 8 / 255) for norm in share}
    assert share == pytest.approx(grown)


def size(norm: str, values: int, change: float) -> float:
    return change * diameter(norm, values)  # of a change of every value


def test_radii_need_no_torch() -> None:
    code = "import sys, rp_attacks.radii; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert found == "False"
