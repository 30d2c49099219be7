import pytest
from rp_purify import MAEPure, MaskDiTPure, preset

from .models import tiny_mae, tiny_maskdit


def test_the_defaults_of_mae_pure_are_those_for_cifar10() -> None:
    default, named = MAEPure(tiny_mae()), MAEPure(tiny_mae(), **preset("cifar10", "mae"))
    for name in ("step_size", "steps", "mask_rate", "halve", "eta"):
        assert getattr(default, name) == getattr(named, name)
    maskdit = MaskDiTPure(tiny_maskdit())
    assert (maskdit.steps, maskdit.mask_rate, maskdit.halve) == (25, 0.5, False)


@pytest.mark.parametrize(
    ("data", "variant", "steps", "mask_rate", "halve"),
    [
        ("cifar10", "rmae", 90, 0.25, True),
        ("cifar100", "mae", 100, 0.30, False),
        ("svhn", "mae", 150, 0.30, True),
        ("imagenet", "mae", 150, 0.20, True),
        ("imagenet", "rmaskdit", 20, 0.30, False),
    ],
)
def test_presets_are_the_papers_tables(data: str, variant: str, steps: int, mask_rate: float, halve: bool) -> None:
    row = preset(data, variant)  # type: ignore[arg-type]
    assert (row["steps"], row["mask_rate"], row["halve"]) == (steps, mask_rate, halve)
    assert row["step_size"] == 1 / 255
    assert row["eta"] == (4 if data == "imagenet" else 8) / 255


def test_contradictions_of_the_paper_are_options() -> None:
    assert preset("cifar10", "rmaskdit")["steps"] == 25
    assert preset("cifar10", "rmaskdit", headline_steps=False)["steps"] == 15
    assert preset("cifar10", "mae", algorithm_1=True)["steps"] == 151
    assert preset("imagenet", "mae", mask_rate_of="visible")["mask_rate"] == pytest.approx(0.8)
    assert preset("svhn", "mae", clip=False)["eta"] is None


def test_an_unknown_data_set_is_refused() -> None:
    with pytest.raises(ValueError, match="cifar10, cifar100, svhn, imagenet"):
        preset("mnist", "mae")
