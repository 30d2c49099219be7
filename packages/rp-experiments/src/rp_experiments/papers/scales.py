"""What `reproduce.py` makes at each scale; importing this does not import torch."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rp_attacks.settings import Budget
from rp_dra.encoder_settings import EncoderSettings
from rp_dra.settings import Method

from rp_experiments.papers.paper_scale import EPS_L2_IMAGENET, paper_comparison, paper_purifier_analysis
from rp_experiments.papers.plan import OTHER_NETWORKS, Plan, Sizes, build
from rp_experiments.papers.settings import PURIFIERS
from rp_experiments.recipes import analyze_purifier, compare_purifiers, dra, probe
from rp_experiments.recipes.dra_settings import TrainDra
from rp_experiments.recipes.pretrain_settings import PretrainClassifier

ROWS = ("none", "noise", "rmae_reconstruction", *PURIFIERS)
WIDE = "wrn-70-16-swish"
METHODS: tuple[Method, ...] = ("standard", "at", "at+dra", "dm-at", "dm-at+dra")


def digits() -> Plan:
    """The embedded digits, 8x8: all items in under an hour on two CPU cores."""
    run = replace(dra.RECIPES["digits"](), method=METHODS)
    run = replace(run, evaluation=replace(run.evaluation, images=200, batch_size=200))
    comparison = compare_purifiers.RECIPES["digits"]()
    comparison = replace(comparison, only=ROWS)
    study = replace(probe.RECIPES["digits"](), baselines=tuple(probe.BASELINES), models=run)
    classifier = comparison.pretrain_classifier
    vit = {"network": "vit-digits", "sizes": {}, "optimizer": "adamw", "lr": 2e-3}
    larger = {"larger": _other(classifier, sizes={"depth": 16, "width": 2}), "other": _other(classifier, **vit)}
    return build(
        Sizes(
            scale="digits",
            comparisons={"digits": comparison},
            runs={"digits": run},
            sweep_images=150,
            probe=study,
            views=replace(
                analyze_purifier.RECIPES["digits"](), images=100, radii=(0.0, 0.125, 0.25, 0.5, 1.0, 1.5, 2.0), every=4
            ),
            table_images=60,
            budget=_budget(steps=15, eot=2, queries=200, passes=2, search=3, fab=20),
            passes=4,
            sensitivity={
                "mae_pure": _one_by_one(steps=(0, 5, 10, 20, 40), step_size=(0.01, 0.02, 0.08), mask_rate=(0.25, 0.75)),
                "maskdit_pure": _one_by_one(steps=(3, 6, 12, 18)),
                "rmaskdit_pure": _one_by_one(steps=(3, 6, 12, 18)),
            },
            larger=larger,
            analysis={"sae_epochs": 100, "sae_seeds": (0, 1)},
        )
    )


def smoke() -> Plan:
    """The digits in a minute or two: every part runs, nothing can be concluded; for tests."""
    run = replace(dra.RECIPES["smoke"](), method=METHODS)
    comparison = replace(
        compare_purifiers.RECIPES["smoke"](),
        only=("none", "noise", "mae_pure", "maskdit_pure", "rmae_pure", "rmaskdit_pure"),
    )
    larger = dict.fromkeys(OTHER_NETWORKS, comparison.pretrain_classifier)
    return build(
        Sizes(
            scale="smoke",
            comparisons={"digits": comparison},
            runs={"smoke": run},
            weights=("0", "1.2"),
            probe=replace(probe.RECIPES["smoke"](), models=run),
            views=analyze_purifier.RECIPES["smoke"](),
            table_images=8,
            budget=_budget(steps=1, eot=1, queries=2, passes=1, search=1, fab=1),
            passes=2,
            sensitivity={
                "mae_pure": _one_by_one(steps=(0, 1), step_size=(0.02,)),
                "maskdit_pure": _one_by_one(steps=(1,)),
            },
            larger=larger,
            descent={"images": 2, "masks": 2, "steps": (1, 2), "attack_steps": 1},
            timing_repeats=1,
            analysis={"images": 20, "permutations": 5, "attack_steps": 2, "radii": (0.0, 1.0), "sae_k": (8,)}
            | {"sae_epochs": 1, "sae_seeds": (0,), "neighbours": 3},
        )
    )


def fashion_mnist() -> Plan:
    """Fashion-MNIST, 28x28, as large as two CPU cores do in a working day: few images, few steps of the attacks."""
    return build(
        replace(
            _fashion_mnist(dra.RECIPES["fashion-mnist"]()),
            comparisons={"fashion-mnist": compare_purifiers.RECIPES["fashion-mnist"]()},
            table_images=30,
            budget=_budget(steps=10, eot=2, queries=100, passes=2, search=2, fab=10),
            passes=4,
        )
    )


def fashion_mnist_gpu() -> Plan:
    """Fashion-MNIST on a GPU: the classifiers of `train_dra.py --recipe fashion-mnist-gpu`, more images and steps."""
    comparison = replace(compare_purifiers.RECIPES["fashion-mnist"](), only=ROWS, images=500)
    budget = replace(comparison.budget, steps=50, eot=10, curved_steps=50, curved_eot=5, queries=500, passes=10)
    return build(
        replace(
            _fashion_mnist(dra.RECIPES["fashion-mnist-gpu"]()),
            scale="fashion-mnist-gpu",
            sweep_base="fashion-mnist-gpu",
            analysis={"images": 1000, "sae_epochs": 20, "sae_seeds": (0, 1)},
            comparisons={"fashion-mnist": replace(comparison, budget=budget)},
            table_images=200,
            budget=_budget(steps=50, eot=10, queries=1000, passes=5, search=5, fab=50),
            passes=10,
        )
    )


def _fashion_mnist(run: TrainDra) -> Sizes:
    """What both scales of Fashion-MNIST have; the first one's comparison, number of images and strength are missing."""
    run = replace(run, method=METHODS)
    encoder = EncoderSettings(epochs=10, lr=1e-3, ema_half_life=20_000, crop_padding=2)
    study = replace(
        probe.RECIPES["digits"](),
        baselines=tuple(probe.BASELINES),
        models=run,
        noisy_encoder=encoder,
        fine_tuning=replace(encoder, epochs=4, lr=3e-4),
    )
    classifier = compare_purifiers.RECIPES["fashion-mnist"]().pretrain_classifier
    larger = {
        "larger": _other(classifier, sizes={"depth": 16, "width": 2}),
        "other": _other(classifier, network="preact-resnet18", sizes={}),
    }
    return Sizes(
        scale="fashion-mnist",
        comparisons={},
        runs={"fashion-mnist": run},
        probe=study,
        views=analyze_purifier.RECIPES["fashion-mnist"](),
        table_images=None,
        budget=Budget(),
        sensitivity={
            "mae_pure": _one_by_one(steps=(0, 5, 10, 20), step_size=(0.01, 0.04), mask_rate=(0.25, 0.75)),
            "maskdit_pure": _one_by_one(steps=(3, 6, 12)),
            "rmaskdit_pure": _one_by_one(steps=(3, 6, 12)),
        },
        larger=larger,
        analysis={"images": 200, "sae_epochs": 20, "sae_seeds": (0, 1)},
    )


def paper() -> Plan:
    """The papers' own models, data sets and budgets: CIFAR-10, CIFAR-100, SVHN, ImageNet; for many GPUs."""
    comparisons = {data: paper_comparison(data) for data in ("cifar10", "cifar100", "svhn", "imagenet")}
    first = dra.RECIPES["cifar10-wrn-28-10-1m"]()
    runs = {"cifar10-wrn-28-10-1m": replace(first, method=METHODS)}
    published = {name: make for name, make in dra.RECIPES.items() if name.startswith(("cifar", "imagenet"))}
    runs |= {name: make() for name, make in published.items() if name not in runs}
    runs["imagenet-vit-b16"] = replace(runs["imagenet-vit-b16"], method=("at", "dm-at", "dm-at+dra"))
    runs["cifar10-wrn-34-10"] = replace(runs["cifar10-wrn-34-10"], method=("at", "at+adr", "at+ikl", "at+dra"))
    runs["cifar10-wrn-28-10-20m"] = replace(runs["cifar10-wrn-28-10-20m"], method=("dm-at", "dm-at+ikl", "dm-at+dra"))
    standard, svhn = (comparisons[data].pretrain_classifier for data in ("cifar10", "svhn"))
    larger = {name: _other(standard, network=of) for name, of in (("larger", WIDE), ("other", "resnet50-cifar"))}
    return build(
        Sizes(
            scale="paper",
            comparisons=comparisons,
            runs=runs,
            sparse_run="imagenet-vit-b16",
            sweep_base="cifar100-wrn-28-10-1m",
            probe=probe.ProbeStudy(models=first, baselines=tuple(probe.BASELINES), passes=20, noisy_steps=20),
            views=paper_purifier_analysis(),
            table_images=None,
            budget=Budget(query_passes=5),
            sensitivity={
                "mae_pure": _one_by_one(
                    steps=(0, 50, 100, 150, 200), step_size=(0.5 / 255, 2 / 255, 4 / 255), mask_rate=(0.5, 0.75)
                ),
                "maskdit_pure": _one_by_one(steps=(15, 20, 25, 30)),
                "rmaskdit_pure": _one_by_one(steps=(15, 20, 25, 30)),
            },
            larger=larger,
            larger_elsewhere={"svhn": _other(svhn, network=WIDE)},
            eps={"imagenet": {"l2": EPS_L2_IMAGENET}},
        )
    )


def _budget(*, steps: int, eot: int, queries: int, passes: int, search: int, fab: int) -> Budget:
    """Of gradient attacks and of RayS; Square takes a fifth of its queries, since each of them is several passes."""
    square = max(1, queries // 5)
    black_box = {"queries": square, "query_passes": passes, "label_queries": queries, "label_passes": passes}
    return Budget(steps=steps, eot=eot, search=search, search_steps=steps, fab_steps=fab, **black_box)


def _other(classifier: PretrainClassifier, **changes: Any) -> PretrainClassifier:
    """Another network, trained as this one but for these changes."""
    return replace(classifier, standard=replace(classifier.standard, **changes))


def _one_by_one(**values: tuple[object, ...]) -> tuple[Mapping[str, object], ...]:
    return tuple({name: value} for name, many in values.items() for value in many)


SCALES: dict[str, Callable[[], Plan]] = {
    "digits": digits,
    "fashion-mnist": fashion_mnist,
    "fashion-mnist-gpu": fashion_mnist_gpu,
    "paper": paper,
    "smoke": smoke,
}
