"""The paper's figures beside which the table of `compare_purifiers.py` stands; importing this does not import torch.

Source: "MAE-Pure: Semantic-Preserving Adversarial Purification", Tables 1, 3, 9 and 11.
"""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class PaperColumn:
    """One column of the paper's tables: accuracies in percent."""

    key: str
    table: str
    title: str
    setting: str
    figures: dict[str, float]  # by row


_CIFAR10 = "CIFAR-10, 512 test images, WRN-28-10, Linf 8/255"
PAPER: tuple[PaperColumn, ...] = (
    PaperColumn(
        key="clean",
        table="Table 1",
        title="clean",
        setting="CIFAR-10, 512 test images, WRN-28-10; DiffPure's row WRN-70-16",
        figures={
            "diffpure": 92.50,
            "mae_pure": 88.57,
            "maskdit_pure": 92.03,
            "rmae_pure": 90.09,
            "rmaskdit_pure": 93.11,
        },
    ),
    PaperColumn(
        key="pgd",
        table="Table 1",
        title="PGD-200, EOT 20",
        setting=f"{_CIFAR10}, exact gradients; DiffPure's row WRN-70-16",
        figures={
            "diffpure": 42.20,
            "mae_pure": 40.53,
            "maskdit_pure": 50.57,
            "rmae_pure": 45.15,
            "rmaskdit_pure": 62.13,
        },
    ),
    PaperColumn(
        key="bpda",
        table="Table 11",
        title="BPDA, EOT 20",
        setting=_CIFAR10,
        figures={
            "diffpure": 78.53,
            "mae_pure": 78.89,
            "maskdit_pure": 83.44,
            "rmae_pure": 80.17,
            "rmaskdit_pure": 85.41,
        },
    ),
    PaperColumn(
        key="autoattack",
        table="Table 3",
        title="AutoAttack",
        setting=f"{_CIFAR10}, version and EOT not named",
        figures={"mae_pure": 40.65, "maskdit_pure": 64.97, "rmae_pure": 47.15, "rmaskdit_pure": 75.83},
    ),
    PaperColumn(
        key="square",
        table="Table 9",
        title="Square",
        setting=f"{_CIFAR10}, black box, queries not named",
        figures={
            "none": 19.15,
            "diffpure": 89.15,
            "mae_pure": 78.59,
            "maskdit_pure": 90.96,
            "rmae_pure": 90.25,
            "rmaskdit_pure": 93.27,
        },
    ),
)

CLAIMS: tuple[tuple[str, str], ...] = (
    ("rmae_pure", "mae_pure"),
    ("rmaskdit_pure", "maskdit_pure"),
    ("maskdit_pure", "mae_pure"),
    ("rmaskdit_pure", "rmae_pure"),
    ("diffpure", "mae_pure"),
    ("maskdit_pure", "diffpure"),
    ("rmaskdit_pure", "diffpure"),
)
"""Pairs of rows of which the paper's Table 1 puts the first above the second under attack."""
