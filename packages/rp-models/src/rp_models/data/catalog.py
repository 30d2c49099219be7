"""What is known of each data set without reading it; importing this module does not import torch."""

import difflib
from dataclasses import replace
from pathlib import Path

from rp_models.data.info import DatasetInfo

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR100 = tuple(
    """apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can castle
    caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin elephant
    flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster man maple_tree
    motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck pine_tree plain plate
    poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk skyscraper snail snake spider
    squirrel streetcar sunflower sweet_pepper table tank telephone television tiger tractor train trout tulip turtle
    wardrobe whale willow_tree wolf woman worm""".split()  # noqa: SIM905, a hundred quoted names are no table to read
)
_FASHION = ("T-shirt/top", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "ankle boot")
_KRIZHEVSKY = "Krizhevsky 2009, Learning Multiple Layers of Features from Tiny Images"
_RUSSAKOVSKY = "Russakovsky et al. 2015, arXiv:1409.0575 (ILSVRC 2012)"

# CIFAR's and SVHN's mean and std are the constants of DM-AT's networks (Wang et al. 2023, arXiv:2302.04638), which for
# CIFAR are the training set's own to four digits; ImageNet's are torchvision's; digits and Fashion-MNIST are measured.
CATALOG: dict[str, DatasetInfo] = {
    "digits": DatasetInfo(
        name="digits",
        class_names=tuple("0123456789"),
        channels=1,
        image_size=8,
        mean=(0.3056,),
        std=(0.3764,),
        # No convention exists for 8x8 scans. 0.15 is 2.4 of their 16 grey levels: a standard classifier is as good as
        # helpless there, while people still read the perturbed digits.
        eps={"linf": 0.15},
        split_sizes={"train": 1297, "validation": 200, "test": 300},
        source="Alpaydin and Kaynak 1998, Optical Recognition of Handwritten Digits, UCI Machine Learning Repository, "
        "the 1,797 images that scikit-learn ships as load_digits",
        licence="CC BY 4.0",
    ),
    "fashion-mnist": DatasetInfo(
        name="fashion-mnist",
        class_names=_FASHION,
        channels=1,
        image_size=28,
        mean=(0.2860,),
        std=(0.3530,),
        eps={"linf": 0.1},
        split_sizes={"train": 58_976, "validation": 1024, "test": 10_000},
        source="Xiao, Rasul and Vollgraf 2017, arXiv:1708.07747",
        licence="MIT",
    ),
    "cifar10": DatasetInfo(
        name="cifar10",
        class_names=_CIFAR10,
        channels=3,
        image_size=32,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2471, 0.2435, 0.2616),
        eps={"linf": 8 / 255, "l2": 128 / 255},
        split_sizes={"train": 48_976, "validation": 1024, "test": 10_000},
        source=_KRIZHEVSKY,
        licence="none stated",
    ),
    "svhn": DatasetInfo(
        name="svhn",
        class_names=tuple("0123456789"),
        channels=3,
        image_size=32,
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
        eps={"linf": 8 / 255},
        split_sizes={"train": 72_233, "validation": 1024, "test": 26_032},
        source="Netzer et al. 2011, Reading Digits in Natural Images with Unsupervised Feature Learning",
        licence="non-commercial use",
    ),
    "imagenet": DatasetInfo(  # for classifiers
        name="imagenet",
        class_names=tuple(f"class {number}" for number in range(1000)),  # a folder tells the synsets
        channels=3,
        image_size=224,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        eps={"linf": 4 / 255},
        split_sizes={"train": 1_271_167, "validation": 10_000, "test": 50_000},
        source=_RUSSAKOVSKY,
        licence="non-commercial research",
    ),
}
CATALOG["cifar100"] = replace(
    CATALOG["cifar10"],
    name="cifar100",
    class_names=_CIFAR100,
    mean=(0.5071, 0.4865, 0.4409),
    std=(0.2673, 0.2564, 0.2762),
)
CATALOG["imagenet-256"] = replace(  # for diffusion models
    CATALOG["imagenet"], name="imagenet-256", image_size=256, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)
)


def describe(name: str) -> DatasetInfo:
    """The description of a data set, from the catalogue or from files of one's own.

    `name`: a name of the catalogue; or the path of an `.npz` of images and labels, or of a class folder. Of these only
    headers, file names and labels are read. Raises ValueError for an unknown name; the message offers the nearest ones;
    DataError if the path holds no usable data set.
    """
    if name in CATALOG:
        return CATALOG[name]
    if name.endswith(".npz"):
        from rp_models.data.npz_set import describe_npz

        return describe_npz(Path(name))
    if Path(name).is_dir():
        from rp_models.data.class_folder import describe_class_folder

        return describe_class_folder(Path(name))
    near = difflib.get_close_matches(name, CATALOG, n=2, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(CATALOG)};"
    raise ValueError(f"unknown data set {name!r}; {hint} a path of an .npz file or of a class folder serves as well")
