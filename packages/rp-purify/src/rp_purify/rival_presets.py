"""Everybody's settings by data set and name: `preset_settings("cifar10/adbm", info, model="adbm.safetensors")`.

Those of MAE-Pure and its variants come from `rp_purify.presets`, the others from their authors' papers and public
scripts. Where a method has no purifier of its own here, the entry is what comes nearest, as `NOTES` says. Importing
this does not import torch.
"""

from typing import TYPE_CHECKING, Any, NoReturn, get_args

from rp_purify.presets import TABLES_13_AND_14, Variant, preset
from rp_purify.settings import PurifierSettings, settings_of

IMAGE_SIZES = {"cifar10": 32, "cifar100": 32, "svhn": 32, "tiny-imagenet": 64, "imagenet": 224}

_SDE = {"solver": "euler-maruyama"}
_GUIDED = {"resize": 256}  # guided-diffusion's network for 256 pixels
_SMALL = ("cifar10", "cifar100", "svhn")
_MASKED_AND_NOISED = {"mask_rate": 0.25, "noise_std": 0.25, "keep_visible": True}

if TYPE_CHECKING:
    from rp_models.data import DatasetInfo

Entry = tuple[str, dict[str, Any]]


def _everywhere(kind: str, values: dict[str, Any], data: tuple[str, ...] = _SMALL) -> dict[str, Entry]:
    """The same settings for several data sets."""
    return dict.fromkeys(data, (kind, values))


RIVALS: dict[str, dict[str, Entry]] = {
    "diffpure": {
        **_everywhere("diffpure", {**_SDE, "times": 100}),
        "imagenet": ("diffpure", {**_SDE, **_GUIDED, "times": 150}),
    },
    "diffpure-l2": _everywhere("diffpure", {**_SDE, "times": 75}),
    "diffpure-l2-1": _everywhere("diffpure", {**_SDE, "times": 125}),
    "diffpure-ddpm": {"imagenet": ("diffpure", {**_GUIDED, "solver": "ddpm", "times": 150})},
    "gradual": {
        "cifar10": ("gradual", {"max_times": (30,) * 4 + (50,) * 2 + (125,) * 2}),
        "svhn": ("gradual", {"max_times": (30,) * 4 + (50,) * 2 + (80,) * 2}),
        "imagenet": ("gradual", {**_GUIDED, "max_times": (30,) * 4 + (50,) * 2 + (200,) * 2}),
    },
    "adbm": _everywhere("adbm", {"times": 100, "steps": 5}, ("cifar10", "svhn", "tiny-imagenet")),
    "scoreopt-o": _everywhere("likelihood", {"levels": (0.4, 0.6), "steps": 5, "lr": 0.1}),
    "scoreopt-o-transfer": _everywhere("likelihood", {"levels": (0.15, 0.35), "steps": 20, "lr": 0.01}),
    "scoreopt-n": _everywhere("scoreopt-n", {"sigma": 0.5, "steps": 20, "lr": 0.1}),
    "scoreopt-n-transfer": _everywhere("scoreopt-n", {"sigma": 0.25, "steps": 5, "lr": 0.1}),
    "likelihood": _everywhere("likelihood", {"levels": (0.4, 0.6), "steps": 5, "lr": 0.1}),
    "coup": _everywhere("coup", {"times": 100}),
    "coup-l2": _everywhere("coup", {"times": 75}),
    "addt": _everywhere("gdmp", {"times": 101, "rounds": 1, "guidance": "none", "beyond": False}),
    "addt-vp": _everywhere("diffpure", {"solver": "predictor-corrector", "times": 101}),
    "addt-edm": _everywhere("edm-purify", {"sigma": 0.5, "steps": 50, "churn": 6.0}),
    "gdmp": {
        **_everywhere("gdmp", {"times": 36, "rounds": 4, "weight": 600.0}),
        "imagenet": (
            "gdmp",
            {**_GUIDED, "times": 45, "rounds": 1, "weight": 10.0, "respacing": 250, "beyond": False}
            | {"noised_reference": False, "variance": "learned"},
        ),
    },
    "gdmp-ssim": _everywhere("gdmp", {"times": 36, "rounds": 4, "weight": 700.0, "guidance": "ssim"}),
    "gdmp-bpda": _everywhere("gdmp", {"times": 60, "rounds": 2, "weight": 10.0, "guidance": "ssim"}),
    "soap": _everywhere("soap", {"delta": 4 / 255, "step_size": 4 / 255, "steps": 5}),
    "adp": _everywhere("adp", {"std": 0.25, "steps": 10}),
    "adp-classifier": _everywhere("adp", {"std": 0.1, "steps": 10}),
    "nim": _everywhere("nim", {"std": 70 / 255}, (*_SMALL, "imagenet")),
    "nim-140": _everywhere("nim", {"std": 140 / 255}, (*_SMALL, "imagenet")),
    "dmae": _everywhere("nim", {"std": 0.25, "mask_rate": 0.75}, (*_SMALL, "imagenet")),
    "dir": _everywhere("mae-reconstruction", {"mask_rate": 0.5}, (*_SMALL, "imagenet")),
    "atop": _everywhere("mae-reconstruction", _MASKED_AND_NOISED, (*_SMALL, "imagenet")),
    "atop-miss": _everywhere("mae-reconstruction", {**_MASKED_AND_NOISED, "noise_std": 0.0}, (*_SMALL, "imagenet")),
}
"""Kind and settings by name and data set; the networks are the user's."""

NOTES = {
    "dmae": "its authors certify a fine-tuned encoder by randomised smoothing and purify nothing; this is its decoder",
    "dir": "no code was found; this is a reconstruction under complementary masks, to be fine-tuned",
    "atop": "its purifier is an inpainting GAN at 256 pixels; this is its random transform, reconstructed by an MAE",
    "atop-miss": "as atop, without noise",
    "addt": "the DDPM process for its tuned networks; addt-vp and addt-edm are those of its others",
    "soap": "with label consistency, which needs no further network",
}
"""What an entry is not."""


def names() -> list[str]:
    """All presets, as data/name."""
    ours = [f"{data}/{_ours(variant)}" for data, rows in TABLES_13_AND_14.items() for variant in rows]
    return sorted(ours + [f"{data}/{name}" for name, entries in RIVALS.items() for data in entries])


def preset_settings(name: str, info: "DatasetInfo", **values: Any) -> PurifierSettings:
    """The settings of a preset such as "cifar10/diffpure" for the images of a data set.

    Args:
        values: the checkpoints (`model=`, `mae=`, ...) and what shall be different.

    Raises:
        DataError: if there is no such preset, or its images have another size than the data set's.
        ValueError: for values that its kind does not have, or a missing checkpoint.
    """
    kind, own = preset_entry(name)
    check_preset(name, info)
    return settings_of(kind, **{**own, **values})


def preset_entry(name: str) -> Entry:
    """Kind and settings of a preset, without networks; DataError if there is no such preset."""
    data, _, method = name.partition("/")
    if name not in names():
        found = ", ".join(known for known in names() if known.endswith(f"/{method}")) or ", ".join(names())
        _refuse(f"there is no preset {name!r}; there are {found}")
    return RIVALS[method][data] if method in RIVALS else _of_paper(data, method)


def check_preset(name: str, info: "DatasetInfo") -> None:
    """Raise DataError if a preset is for images of another size."""
    size = IMAGE_SIZES[name.partition("/")[0]]
    if info.image_size != size:
        _refuse(
            f"the preset {name} is for images of {size} pixels, those of {info.name} have {info.image_size}; its times "
            "and levels mean nothing there"
        )


def _refuse(message: str) -> NoReturn:
    from rp_models.data.datasets import DataError  # which imports torch

    raise DataError(message)


def _of_paper(data: str, method: str) -> Entry:
    """MAE-Pure's own settings."""
    variant = next(each for each in get_args(Variant) if _ours(each) == method)
    kind = f"{variant.removeprefix('r')}-pure"
    if kind == "maskdit-pure" and data == "imagenet":
        kind = "latent-maskdit-pure"
    return kind, preset(data, variant)


def _ours(variant: str) -> str:
    """The name of a variant among the presets."""
    return f"{variant}-pure"
