"""Tables 5 to 9 of the MAE-Pure paper: other classifiers, other norms, other attackers."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rp_experiments.artifacts import Made, Product
from rp_experiments.papers.attack_results import (
    WORST,
    attack_rows,
    ball_differences,
    by_data,
    on_data,
    radii,
    title_of,
)
from rp_experiments.papers.claims import (
    FAILED,
    HELD,
    OPEN,
    Check,
    Claim,
    Finding,
    Numbers,
    everyone,
    everywhere,
    larger,
    points,
    reaches,
)
from rp_experiments.papers.intervals import paired, separate
from rp_experiments.papers.item import Item, Outcome, Products, Table
from rp_experiments.recipes.compare_purifiers import TITLES

if TYPE_CHECKING:
    from rp_experiments.papers.plan import Plan

_PURIFIERS = ("diffpure", "mae_pure", "maskdit_pure", "rmae_pure", "rmaskdit_pure")
_FEWER_ATTACKS = (
    "The worst case here is over fewer attacks than Table 1's: in Linf and L2 transfer, PGD and the two APGD, in L2 "
    "C&W and DeepFool too, in L1 transfer and PGD alone. Square and the attacks through other backward rules are left "
    "out, so it flatters more than Table 1's; rows can be compared with each other, not with Table 1."
)


def _other_classifiers(made: Mapping[str, Made]) -> Outcome:
    table = made["classifiers"]
    cells = {f"Linf, {WORST}": ("linf", "worst"), f"L2, {WORST}": ("l2", "worst")}
    numbers = {**ball_differences(table, "linf"), **ball_differences(table, "l2")}
    return Outcome(
        tables=[
            Table(
                f"Purifiers before classifiers that they were not tuned for, %; radius {radii(table)}",
                attack_rows(table, cells),
                "classifiers",
            )
        ],
        numbers=numbers,
    )


def _behind(plan: "Plan") -> Products:
    return {"classifiers": plan.classifiers}


_NORMS = {"linf": "Linf", "l2": "L2"}


def _transfers(better: str, worse: str, classifier: str, ball: str) -> Check:
    """That one purifier beats another one before a classifier, in one norm."""
    one, other = f"{better}, {classifier}", f"{worse}, {classifier}"
    return larger(f"{ball}: {one}>{other}", f"{title_of(one)} minus {TITLES[worse]}, worst case")


_STAND_INS = (
    "Classifiers that stand in: WRN-16-2 (larger) for WRN-70-16; for ResNet-50 (other) on the digits a small ViT, on "
    "Fashion-MNIST a PreAct ResNet-18. The first one is WRN-10-1. The purifiers are those tuned for the first one. "
    + _FEWER_ATTACKS
)
TABLE_5 = Item(
    key="mae-pure/table-5",
    paper="MAE-Pure",
    title="Fine-tuned purifiers before other classifiers",
    products=_behind,
    look=_other_classifiers,
    claims=tuple(
        Claim(
            f"{TITLES[row]} fine-tuned for one classifier still beats DiffPure before the {classifier} one, in {norm}.",
            _transfers(row, "diffpure", classifier, ball),
        )
        for row in ("rmae_pure", "rmaskdit_pure")
        for classifier in ("larger", "other")
        for ball, norm in _NORMS.items()
    ),
    printed=("mae-pure-table-5",),
    contradictions=(
        "Before WideResNet-70-16 the Linf accuracies of RMAE-Pure and RMaskDiT-Pure are 44.27 and 58.37 here, 47.92 "
        "and 63.94 in Table 8, which does not say that they were fine-tuned again.",
    ),
    remark=_STAND_INS,
)
TABLE_8 = Item(
    key="mae-pure/table-8",
    paper="MAE-Pure",
    title="Purifiers before a larger classifier",
    products=lambda plan: on_data({"classifiers": plan.before_larger}, "svhn"),
    look=lambda made: by_data(made, _other_classifiers),
    claims=(
        Claim(
            "A larger classifier behind the purifier is more robust.",
            everywhere(
                everyone(
                    *(
                        larger(
                            f"linf: {row}, larger>{row}, first",
                            f"{TITLES[row]}, larger minus first classifier, Linf worst case",
                        )
                        for row in ("mae_pure", "maskdit_pure", "rmae_pure", "rmaskdit_pure")
                    )
                )
            ),
        ),
        *(
            Claim(
                f"RMaskDiT-Pure is the most robust of the four, in {norm}.",
                everywhere(
                    everyone(
                        *(
                            _transfers("rmaskdit_pure", row, "larger", ball)
                            for row in ("mae_pure", "maskdit_pure", "rmae_pure")
                        )
                    )
                ),
            )
            for ball, norm in _NORMS.items()
        ),
    ),
    printed=("mae-pure-table-8",),
    contradictions=(
        "MAE-Pure on SVHN has 17.11 and 32.75 here with the larger classifier, 27.59 and 55.29 in Table 2 with the "
        "smaller one, MaskDiT-Pure 46.03 and 63.77 against 46.57 and 66.38: not what the text says.",
        "RMAE-Pure's L2 accuracy on SVHN, 60.51, repeats that of the smaller classifier in Table 2.",
        "Table 7 names the larger classifier too, but repeats the L2 values of the smaller one (53.50, 64.53, 60.72).",
    ),
    remark=_STAND_INS + " The paper may have fine-tuned again for the larger one.",
)


def _table_6(made: Mapping[str, Made]) -> Outcome:
    norms = made["norms"]
    cells = {
        "PGD L1": ("l1", "pgd-l1"),
        f"L1, {WORST}": ("l1", "worst"),
        "PGD L2": ("l2", "pgd-l2"),
        f"L2, {WORST}": ("l2", "worst"),
    }
    numbers = {**ball_differences(norms, "l1"), **ball_differences(norms, "l2")}
    seen = made["classifiers"].read()["rows"] if "classifiers" in made else {}
    for name, row in norms.read()["rows"].items():
        if f"{name}, first" in seen:
            linf = seen[f"{name}, first"]["balls"]["linf"]["attacks"]["pgd-linf"]
            numbers[f"{name}, l1 minus linf"] = separate(row["balls"]["l1"]["attacks"]["pgd-l1"], linf)
    title = f"Attacks in other norms, %; radius {radii(norms)}"
    return Outcome(tables=[Table(title, attack_rows(norms, cells), "norms")], numbers=numbers)


def _both_unseen(row: str) -> Check:
    """That a purifier beats DiffPure in L1 and in L2."""
    text = f"{TITLES[row]} minus DiffPure, worst case"
    return everyone(*(larger(f"{ball}: {row}>diffpure", f"{ball}, {text}") for ball in ("l1", "l2")))


TABLE_6 = Item(
    key="mae-pure/table-6",
    paper="MAE-Pure",
    title="Unseen threats: L1 and L2",
    products=lambda plan: on_data({"norms": plan.norms}, "cifar100", "svhn") | _behind_first(plan),
    look=lambda made: by_data(made, _table_6),
    claims=(
        Claim("RMaskDiT-Pure beats DiffPure under both unseen threats.", everywhere(_both_unseen("rmaskdit_pure"))),
        Claim(
            "RMAE-Pure beats DiffPure under both unseen threats (CIFAR-10 and SVHN: slightly).",
            everywhere(_both_unseen("rmae_pure")),
        ),
        Claim(
            "What was tuned against Linf holds under L1 at least as well (RMaskDiT-Pure, 65.11 against 62.13).",
            lambda numbers: _at_least_as_good(numbers, "rmaskdit_pure"),
        ),
    ),
    printed=("mae-pure-table-6",),
    contradictions=(
        "The text says WideResNet-70-16 on CIFAR-10; the L2 values are Table 1's with WideResNet-28-10. On CIFAR-10 "
        "and SVHN the text has RMAE-Pure above DiffPure; in L2 the table has 60.72 against 60.80 and 60.51 against "
        "63.30.",
        "The text says that on CIFAR-100 RMaskDiT-Pure's accuracy under L2 'is slightly lower than under L1'; the "
        "table has 43.27 and 41.15.",
        "On CIFAR-100 the L2 accuracies of DiffPure and RMAE-Pure are 27.53 and 29.58 here, 31.53 and 31.58 in Table "
        "2. ADBM's in L2 on CIFAR-10 is 63.30 here and in Table 1, 66.30 in Table 7.",
    ),
    remark="Radii stand to the Linf radius as the paper's 12 and 1 to 8/255, for as many values as an image has here. "
    "L1 is attacked by transfer and PGD alone, L2 by six attacks, Linf by four; so L1 and Linf are compared under PGD.",
)


def _behind_first(plan: "Plan") -> dict[str, Product]:
    """The Linf attacks of the same strength, which are on the first data set alone."""
    return {f"classifiers, {next(iter(plan.norms))}": plan.classifiers}


def _at_least_as_good(numbers: Numbers, row: str) -> Finding:
    """L1 minus Linf under PGD, where both were run; `at least as good` fails only if the interval lies below zero."""
    places = {
        name: inner[key] for name, inner in numbers["places"].items() if (key := f"{row}, l1 minus linf") in inner
    }
    text = f"{TITLES[row]}, PGD, L1 minus Linf: " + "; ".join(f"{name} {points(gap)}" for name, gap in places.items())
    if not places or any(gap["low"] <= 0 <= gap["high"] for gap in places.values()):
        return Finding(OPEN, text)
    return Finding(HELD if all(gap["low"] > 0 for gap in places.values()) else FAILED, text)


def _table_7(made: Mapping[str, Made]) -> Outcome:
    norms = made["norms"]
    cells = {
        "C&W": ("l2", "cw-l2"),
        "DeepFool": ("l2", "deepfool-l2"),
        "APGD-CE": ("l2", "apgd-ce-l2"),
        "APGD-DLR": ("l2", "apgd-dlr-l2"),
        "PGD": ("l2", "pgd-l2"),
        WORST: ("l2", "worst"),
    }
    numbers: dict[str, Any] = dict(ball_differences(norms, "l2"))
    for name, row in norms.read()["rows"].items():
        attacks = row["balls"]["l2"]["attacks"]
        stronger = min((attacks[key] for key in ("cw-l2", "deepfool-l2")), key=lambda cell: cell["estimate"])
        numbers[f"{name}, minimum-norm minus PGD"] = separate(stronger, attacks["pgd-l2"])
    title = f"L2 attacks on the whole system, %; radius {radii(norms)}"
    return Outcome(tables=[Table(title, attack_rows(norms, cells), "norms")], numbers=numbers)


def _most_robust(row: str, ball: str) -> Check:
    """That a purifier beats every other one in one ball."""
    others = [other for other in _PURIFIERS if other != row]
    return everyone(
        *(larger(f"{ball}: {row}>{other}", f"{TITLES[row]} minus {TITLES[other]}, worst case") for other in others)
    )


TABLE_7 = Item(
    key="mae-pure/table-7",
    paper="MAE-Pure",
    title="Adaptive attacks in L2",
    products=lambda plan: {"norms": next(iter(plan.norms.values()))},
    look=_table_7,
    claims=(
        Claim("RMaskDiT-Pure is the most robust of all under L2 attacks.", _most_robust("rmaskdit_pure", "l2")),
        Claim(
            "MAE-Pure is the least robust of all.",
            everyone(
                *(
                    larger(f"l2: {row}>mae_pure", f"{TITLES[row]} minus MAE-Pure, worst case")
                    for row in _PURIFIERS
                    if row != "mae_pure"
                )
            ),
        ),
        Claim(
            "C&W and DeepFool are weaker than PGD against purifiers.",
            everyone(
                *(
                    larger(f"{row}, minimum-norm minus PGD", f"{TITLES[row]}, stronger of C&W and DeepFool minus PGD")
                    for row in _PURIFIERS
                )
            ),
        ),
    ),
    printed=("mae-pure-table-7",),
    contradictions=(
        "The caption says WideResNet-70-16, but three PGD values are Table 1's with WideResNet-28-10. RMaskDiT-Pure "
        "has 69.57 here, 73.57 in Table 1 and 75.50 in Table 8; ADBM 66.30 here and 63.30 in Tables 1 and 6.",
    ),
    remark="The images of all attacks are the same, the intervals of their differences are those of separate images. "
    + _FEWER_ATTACKS,
)


def _table_9(made: Mapping[str, Made]) -> Outcome:
    table = made["black box"]
    cells = {"Square": ("linf", "square"), "FAB, transferred": ("linf", "fab"), "RayS": ("linf", "rays")}
    rows = table.read()["rows"]
    numbers: dict[str, Any] = dict(ball_differences(table, "linf"))
    for name, row in rows.items():
        numbers[f"{name}, clean minus black box"] = paired(row["clean_right"], row["balls"]["linf"]["right"])
    return Outcome(
        tables=[
            Table(
                f"Attacks without gradients, %; radius {radii(table)}",
                attack_rows(table, {**cells, WORST: ("linf", "worst")}),
                "black box",
            )
        ],
        numbers=numbers,
    )


TABLE_9 = Item(
    key="mae-pure/table-9",
    paper="MAE-Pure",
    title="Attacks without gradients: Square, FAB, RayS",
    products=lambda plan: on_data({"black box": plan.black_box}, "svhn"),
    look=lambda made: by_data(made, _table_9),
    claims=(
        Claim("RMaskDiT-Pure is the most robust of all.", everywhere(_most_robust("rmaskdit_pure", "linf"))),
        Claim(
            "Purified, the classifier is almost as good under black-box attacks as on clean images.",
            everywhere(lambda numbers: _close_to_clean(numbers, "rmaskdit_pure")),
        ),
        Claim(
            "Without a purifier the classifier is broken.",
            everywhere(
                reaches("none, clean minus black box", 0.5, "no purifier, clean minus black box", percent=True),
            ),
        ),
    ),
    printed=("mae-pure-table-9",),
    contradictions=(
        "Robust above clean: MaskDiT-Pure has 92.03 clean and 93.39 under RayS, RMAE-Pure 90.09 and 92.31. FAB is a "
        "white-box attack; here it is run on the classifier alone and transferred.",
        "DiffPure's clean accuracy on CIFAR-10 is 89.15 here, 89.20 in Table 11 with the same classifier, 92.50 in "
        "Table 1 with a larger one.",
    ),
    remark="Square has a fifth of RayS' queries, since each of its queries asks several passes.",
)


def _close_to_clean(numbers: Numbers, row: str) -> Finding:
    """Within five points of the clean accuracy, for the whole interval."""
    loss = numbers[f"{row}, clean minus black box"]
    verdict = HELD if loss["high"] <= 0.05 else FAILED if loss["low"] > 0.05 else OPEN
    return Finding(verdict, f"{TITLES[row]}, clean minus worst black-box attack: {points(loss)} (rule: at most 5)")


TABLES = (TABLE_5, TABLE_6, TABLE_7, TABLE_8, TABLE_9)
