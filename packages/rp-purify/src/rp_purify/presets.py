"""The paper's settings of the purifiers, by data set and variant.

Source: Tables 13 and 14 of "MAE-Pure: Semantic-Preserving Adversarial Purification". Where the paper contradicts itself
or is silent, `preset` has an argument; its default is the reading that agrees with the main results.
"""

from typing import Any, Literal, NamedTuple

Variant = Literal["mae", "rmae", "maskdit", "rmaskdit"]


class Row(NamedTuple):
    """One cell group of the tables: step size 1 of 255 everywhere."""

    mask_rate: float
    steps: int
    halve: bool  # the tables' asterisk


TABLES_13_AND_14: dict[str, dict[Variant, Row]] = {
    "cifar10": {
        "mae": Row(0.25, 150, True),
        "rmae": Row(0.25, 90, True),
        "maskdit": Row(0.50, 25, False),
        "rmaskdit": Row(0.50, 15, False),
    },
    "cifar100": {
        "mae": Row(0.30, 100, False),
        "rmae": Row(0.25, 65, False),
        "maskdit": Row(0.50, 20, False),
        "rmaskdit": Row(0.50, 20, False),
    },
    "svhn": {
        "mae": Row(0.30, 150, True),
        "rmae": Row(0.25, 80, False),
        "maskdit": Row(0.50, 20, False),
        "rmaskdit": Row(0.50, 20, False),
    },
    "imagenet": {
        "mae": Row(0.20, 150, True),
        "rmae": Row(0.25, 20, False),
        "maskdit": Row(0.30, 25, False),
        "rmaskdit": Row(0.30, 20, False),
    },
}
PATCH_SIZE = {"cifar10": 4, "cifar100": 4, "svhn": 4, "imagenet": 16}
EPS = {"cifar10": 8 / 255, "cifar100": 8 / 255, "svhn": 8 / 255, "imagenet": 4 / 255}
"""The radius of the attacks of the maximum norm."""
FINETUNE_EPOCHS: dict[Variant, dict[str, int]] = {
    "rmae": {"cifar10": 100, "cifar100": 100, "svhn": 100, "imagenet": 3},
    "rmaskdit": {"cifar10": 25, "cifar100": 25, "svhn": 25, "imagenet": 1},
}
"""Epochs of robust fine-tuning, appendix L.1."""


def preset(
    data: str,
    variant: Variant,
    *,
    headline_steps: bool = True,
    mask_rate_of: Literal["hidden", "visible"] = "hidden",
    algorithm_1: bool = False,
    clip: bool = True,
) -> dict[str, Any]:
    """The arguments of `MAEPure` or `MaskDiTPure` for one data set: `MAEPure(mae, **preset("cifar10", "mae"))`.

    Args:
        data: "cifar10", "cifar100", "svhn" or "imagenet".
        variant: "mae", "rmae" (robustly fine-tuned), "maskdit" or "rmaskdit".
        headline_steps: RMaskDiT on CIFAR-10: 25 steps, with which Table 12 has Table 1's 62.13%; False for Table 14's
            15, with which it has 49.22%.
        mask_rate_of: appendix E.2 calls (1 - rho) n patches masked at mask rate rho; "visible" follows it.
        algorithm_1: its loop `while s <= S` runs S + 1 times; Eq. 3 is applied S times.
        clip: eta is named nowhere; True uses the attacks' radius, False no ball.
    """
    if data not in TABLES_13_AND_14 or variant not in TABLES_13_AND_14[data]:
        raise ValueError(
            f"the paper has settings for {', '.join(TABLES_13_AND_14)} and mae, rmae, maskdit, rmaskdit, "
            f"got {data!r} and {variant!r}"
        )
    row = TABLES_13_AND_14[data][variant]
    steps = 25 if headline_steps and (data, variant) == ("cifar10", "rmaskdit") else row.steps
    return {
        "step_size": 1 / 255,
        "steps": steps + algorithm_1,
        "mask_rate": row.mask_rate if mask_rate_of == "hidden" else 1 - row.mask_rate,
        "halve": row.halve,
        "eta": EPS[data] if clip else None,
    }
