"""RobustBench's entries whose files do not tell how the network normalises its input: that lies in their code.

Source: Croce et al. 2021, arXiv:2010.09670, and its public model zoo.
"""

from collections.abc import Mapping
from typing import Any

from rp_models.networks.normalization import CIFAR10, Statistics

_HALF = Statistics((0.5,) * 3, (0.5,) * 3)
_ENGSTROM = Statistics(CIFAR10.mean, (0.2023, 0.1994, 0.2010))
_RONY = Statistics((0.491, 0.482, 0.447), (0.247, 0.243, 0.262))
_AUGUSTIN = Statistics((0.49139976, 0.48215856, 0.44653091), (0.24703225, 0.24348516, 0.26158784))
_CHEN100 = Statistics((0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761))
_RICE100 = Statistics((0.50707516, 0.48654887, 0.44091784), (0.26733429, 0.25643846, 0.27615047))

_KIREEV = ("Gauss50percent", "AugMixNoJSD", "RLAT", "RLATAugMixNoJSD", "RLATAugMix")

# by network and classes; what no constants express is told in words
_ENTRIES: dict[tuple[str, int], dict[str, Statistics | str]] = {
    ("wide-resnet-28-10", 10): {"Hendrycks2019Using (Linf)": _HALF, "Rony2019Decoupling (L2)": _RONY},
    ("wide-resnet-28-10", 100): {"Hendrycks2019Using (Linf)": _HALF},
    ("wide-resnet-28-4", 10): {"Ding2020MMA (Linf and L2)": "it standardises each image by itself"},
    ("wide-resnet-34-10", 10): {f"Augustin2020Adversarial_34_10{extra} (L2)": _AUGUSTIN for extra in ("", "_extra")},
    ("wide-resnet-34-10", 100): {"Wu2020Adversarial (Linf)": _RICE100},
    ("wide-resnet-34-10, sub-block", 10): {"Chen2020Efficient (Linf)": CIFAR10},
    ("wide-resnet-34-10, sub-block", 100): {"Chen2020Efficient (Linf)": _CHEN100},
    ("wide-resnet-34-20", 10): {"Rice2020Overfitting (Linf)": CIFAR10},
    ("wide-resnet-34-20, sub-block, no head bias", 10): {
        "Pang2020Boosting (Linf)": "it scales its features and the rows of its head to length 1"
    },
    ("wide-resnet-40-2", 10): {"Hendrycks2020AugMix_WRN (corruptions)": _HALF},
    ("wide-resnet-40-2", 100): {"Hendrycks2020AugMix_WRN (corruptions)": _HALF},
    ("preact-resnet-18", 10): {
        "Rice2020Overfitting (L2)": CIFAR10,
        **{f"Kireev2021Effectiveness_{name} (corruptions)": CIFAR10 for name in _KIREEV},
    },
    ("preact-resnet-18", 100): {"Rice2020Overfitting (Linf)": _RICE100},
    ("cifar-resnet-50", 10): {
        "Engstrom2019Robustness (Linf and L2)": _ENGSTROM,
        "Augustin2020Adversarial (L2)": _AUGUSTIN,
    },
}


def normalised_in_code(architecture: str, arguments: Mapping[str, Any]) -> dict[str, Statistics | str]:
    """The entries with this network whose file lacks its normalisation: constants, or what else their code does."""
    parts = [architecture, *(str(arguments[name]) for name in ("depth", "width") if name in arguments)]
    switches = (", sub-block" if arguments.get("sub_block") else "") + (
        "" if arguments.get("head_bias", True) else ", no head bias"
    )
    return _ENTRIES.get(("-".join(parts) + switches, arguments["num_classes"]), {})


def doubt(found: Mapping[str, Statistics | str]) -> str:
    """A sentence that names entries and what to give for each."""
    ways = [
        f"{name}, mean={value.mean}, std={value.std}"
        if isinstance(value, Statistics)
        else f"{name}, not built: {value}"
        for name, value in found.items()
    ]
    return (
        "the file holds no normalisation constants, and entries of RobustBench with this network keep theirs in code; "
        f"without them the logits are wrong. It could be {'; '.join(ways)}. If it is none of these and takes images "
        "in [0, 1] as they are, say so with mean=(0, 0, 0), std=(1, 1, 1)"
    )
