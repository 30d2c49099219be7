import pytest
from rp_purify import MAEPure, MaskDiTPure, preset

from .models import tiny_mae, tiny_maskdit

# Tables 13 and 14 of the paper as they stand there, row by row: MAE, RMAE, MaskDiT, RMaskDiT. "1*" is a step of one
# grey level of 255 that is halved after half of the iterations.
VARIANTS = ("mae", "rmae", "maskdit", "rmaskdit")
STEP_SIZE = {
    "cifar10": ("1*", "1*", "1", "1"),
    "cifar100": ("1", "1", "1", "1"),
    "svhn": ("1*", "1", "1", "1"),
    "imagenet": ("1*", "1", "1", "1"),
}
MASK_RATE = {
    "cifar10": (0.25, 0.25, 0.50, 0.50),
    "cifar100": (0.30, 0.25, 0.50, 0.50),
    "svhn": (0.30, 0.25, 0.50, 0.50),
    "imagenet": (0.20, 0.25, 0.30, 0.30),
}
ITERATIONS = {
    "cifar10": (150, 90, 25, 15),
    "cifar100": (100, 65, 20, 20),
    "svhn": (150, 80, 20, 20),
    "imagenet": (150, 20, 25, 20),
}


def test_the_defaults_of_mae_pure_are_those_for_cifar10() -> None:
    default, named = MAEPure(tiny_mae()), MAEPure(tiny_mae(), **preset("cifar10", "mae"))
    for name in ("step_size", "steps", "mask_rate", "halve", "eta"):
        assert getattr(default, name) == getattr(named, name)
    maskdit = MaskDiTPure(tiny_maskdit())
    assert (maskdit.steps, maskdit.mask_rate, maskdit.halve) == (25, 0.5, False)


@pytest.mark.parametrize("data", STEP_SIZE)
@pytest.mark.parametrize("variant", VARIANTS)
def test_presets_are_the_papers_tables(data: str, variant: str) -> None:
    column = VARIANTS.index(variant)
    row = preset(data, variant, headline_steps=False)  # type: ignore[arg-type]
    assert row == {
        "step_size": 1 / 255,
        "steps": ITERATIONS[data][column],
        "mask_rate": MASK_RATE[data][column],
        "halve": STEP_SIZE[data][column] == "1*",
        "eta": (4 if data == "imagenet" else 8) / 255,  # named nowhere: the radius of the attacks
    }


def test_only_one_preset_departs_from_the_tables() -> None:
    """By 25 steps of RMaskDiT on CIFAR-10, with which Table 12 has the result of Table 1."""
    departs = {
        (data, variant): preset(data, variant)["steps"]  # type: ignore[arg-type]
        for data in STEP_SIZE
        for variant in VARIANTS
        if preset(data, variant) != preset(data, variant, headline_steps=False)  # type: ignore[arg-type]
    }
    assert departs == {("cifar10", "rmaskdit"): 25}


def test_contradictions_of_the_paper_are_options() -> None:
    assert preset("cifar10", "mae", algorithm_1=True)["steps"] == 151
    assert preset("imagenet", "mae", mask_rate_of="visible")["mask_rate"] == pytest.approx(0.8)
    assert preset("svhn", "mae", clip=False)["eta"] is None


def test_an_unknown_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match="cifar10, cifar100, svhn, imagenet"):
        preset("mnist", "mae")
