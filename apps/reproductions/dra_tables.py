"""Tables 1 to 3, the ablations of Section 5.6 and Appendix C of the DRA paper."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from reproductions.claims import Check, Claim, Finding, Limits, Numbers, above, everyone, larger, points, sign_of
from reproductions.intervals import paired, separate
from reproductions.item import Figure, Item, Outcome, Products, Row, Table
from reproductions.product import Made, Product

if TYPE_CHECKING:
    from recipes.reproduction_plan import Plan

_TITLES = {
    "standard": "standard training",
    "at": "AT",
    "at+dra": "AT+DRA",
    "at+adr": "AT+ADR",
    "at+ikl": "AT+IKL",
    "dm-at": "DM-AT",
    "dm-at+dra": "DM-AT+DRA",
    "dm-at+ikl": "DM-AT+IKL",
}


def limits(cell: Mapping[str, Any]) -> Limits:
    """Estimate and limits of a counted accuracy."""
    return {key: cell[key] for key in ("estimate", "low", "high")}


def _rows(made: Made) -> list[Row]:
    """A run's methods with their accuracies."""
    return [
        {"method": _TITLES.get(name, name), "clean": limits(row["clean"]), "AutoAttack": limits(row["autoattack"])}
        for name, row in made.read()["methods"].items()
    ]


def differences(made: Made, name: str = "") -> dict[str, Limits]:
    """For all pairs of a run's methods, clean and under AutoAttack: `dm-at+dra>dm-at, clean`."""
    right = made.read("images.json")
    prefix = f"{name}: " if name else ""
    return {
        f"{prefix}{a}>{b}, {kind}": paired(right[a][kind], right[b][kind])
        for a in right
        for b in right
        if a != b
        for kind in ("clean", "autoattack")
    }


def _both(better: str, worse: str) -> Check:
    text = f"{_TITLES[better]} minus {_TITLES[worse]}"
    return everyone(
        *(
            larger(f"{better}>{worse}, {kind}", f"{text}, {title}")
            for kind, title in (("clean", "clean"), ("autoattack", "AutoAttack"))
        )
    )


def _runs(plan: "Plan") -> Products:
    return dict(plan.runs)


def _table_1(made: Mapping[str, Made]) -> Outcome:
    numbers: dict[str, Any] = {}
    for one in reversed(list(made.values())):  # the first run's numbers carry no prefix
        numbers |= differences(one)
    return Outcome(
        tables=[Table(f"Recipe {name}: accuracy, %", _rows(one), name) for name, one in made.items()],
        figures=[Figure("clean and AutoAttack accuracy", name, "figures/comparison.png") for name in list(made)[:1]],
        numbers=numbers,
    )


_ONE_SEED = "One seed; five seeds of four methods are `uv run apps/sweep.py --recipe seeds`."
TABLE_1 = Item(
    key="dra/table-1",
    paper="DRA",
    title="DM-AT with and without diffusion representation alignment, three data sets",
    products=_runs,
    look=_table_1,
    claims=(
        Claim("DRA raises clean and robust accuracy of DM-AT.", _both("dm-at+dra", "dm-at")),
        Claim(
            "Adversarial training makes the classifier robust at all: the attack breaks standard training.",
            larger("dm-at>standard, autoattack", "DM-AT minus standard training, AutoAttack"),
        ),
    ),
    printed=("dra-table-1",),
    remark="The digits stand in for CIFAR-10, CIFAR-100 and ImageNet with one small wide ResNet. " + _ONE_SEED,
)
TABLE_2 = Item(
    key="dra/table-2",
    paper="DRA",
    title="Amounts of synthetic data, and other methods (CIFAR-10)",
    products=_runs,
    look=_table_1,
    claims=(
        Claim("Without synthetic images DRA raises clean and robust accuracy.", _both("at+dra", "at")),
        Claim("With synthetic images it does too.", _both("dm-at+dra", "dm-at")),
        Claim("Synthetic images raise clean and robust accuracy.", _both("dm-at", "at")),
        Claim("Both together are best.", everyone(_both("dm-at+dra", "at"), _both("dm-at+dra", "at+dra"))),
    ),
    printed=("dra-table-2",),
    contradictions=(
        "The rows of ADR and IKL without synthetic images come from their own papers with other optimisers; DM-AT's "
        "with ViT-B/2 and 20M images has 92.27 clean, below DM-AT's 92.44 with a wide ResNet.",
    ),
    remark="One amount of synthetic images and one network at this scale. " + _ONE_SEED,
)


def _table_3(made: Mapping[str, Made]) -> Outcome:
    analysis = made["analysis"]
    rows = analysis.read("tables/dimension.json")
    numbers = {f"{row['method']}, {key}": row[key] for row in rows for key in ("CLS-95", "CLS-99", "robust")}
    figures = [
        Figure(f"accuracy over components, {row['method']}", "analysis", f"figures/dimension-{row['method']}.png")
        for row in rows
    ]
    return Outcome(
        tables=[Table("Number of principal components", rows, "analysis")],
        figures=[figure for figure in figures if analysis.has(figure.file)],
        numbers=numbers,
    )


def _dimension(better: str, worse: str, which: str) -> Check:
    return above(
        f"{better}, {which}", f"{worse}, {which}", f"{which} dimension, {_TITLES[better]} against {_TITLES[worse]}"
    )


TABLE_3 = Item(
    key="dra/table-3",
    paper="DRA",
    title="Classification dimension and robust-aware dimension",
    products=lambda plan: {"analysis": plan.analysis},
    look=_table_3,
    claims=(
        Claim(
            "DRA raises the robust-aware dimension.",
            everyone(_dimension("at+dra", "at", "robust"), _dimension("dm-at+dra", "dm-at", "robust")),
        ),
        Claim(
            "DRA raises the classification dimension.",
            everyone(
                *(_dimension(f"{base}+dra", base, which) for base in ("at", "dm-at") for which in ("CLS-95", "CLS-99"))
            ),
        ),
        Claim(
            "Synthetic images lower the CLS-99 dimension (representations of lower rank).",
            everyone(_dimension("at", "dm-at", "CLS-99"), _dimension("at+dra", "dm-at+dra", "CLS-99")),
        ),
    ),
    printed=("dra-table-3",),
    contradictions=("Synthetic images raise CLS-95 of AT from 9 to 10 and the robust-aware dimension from 9 to 11.",),
    remark="The robust-aware dimension is the peak of a flat curve; its width is in the table.",
)


def _target(made: Mapping[str, Made]) -> Outcome:
    run, noisy = made["run"], made["noisy"]
    rows: list[Row] = [
        {"alignment target": name, "clean": limits(cell["clean"]), "AutoAttack": limits(cell["autoattack"])}
        for name, cell in (
            ("none (DM-AT)", run.read()["methods"].get("dm-at")),
            ("diffusion model", run.read()["methods"].get("dm-at+dra")),
        )
        if cell
    ]
    found = noisy.read()["methods"]["dm-at+dra"]
    tables = [
        Table("DM-AT and DM-AT+DRA, %", rows, "run"),
        Table(
            "The same with the noisy-input encoder as target, %",
            [
                {
                    "alignment target": "noisy-input encoder",
                    "clean": limits(found["clean"]),
                    "AutoAttack": limits(found["autoattack"]),
                }
            ],
            "noisy",
        ),
    ]
    right, other = run.read("images.json"), noisy.read("images.json")["dm-at+dra"]
    numbers = {
        f"{base} minus noisy, {kind}": paired(right[base][kind], other[kind])
        for base in ("dm-at", "dm-at+dra")
        if base in right
        for kind in ("clean", "autoattack")
    }
    return Outcome(tables=tables, numbers=numbers)


TARGET = Item(
    key="dra/section-5.6-target",
    paper="DRA",
    title="A noisy-input discriminative encoder as the alignment's target",
    products=lambda plan: {"run": _first(plan), "noisy": plan.noisy},
    look=_target,
    claims=(
        Claim(
            "The diffusion model is the better target: it gives higher robust accuracy.",
            larger(
                "dm-at+dra minus noisy, autoattack", "DM-AT+DRA minus the same with the noisy-input encoder, AutoAttack"
            ),
        ),
        Claim(
            "The noisy-input encoder is worse than no alignment.",
            larger(
                "dm-at minus noisy, autoattack", "DM-AT minus DM-AT aligned with the noisy-input encoder, AutoAttack"
            ),
        ),
    ),
    printed=("dra-section-5-6-target",),
)


def _first(plan: "Plan") -> Product:
    """The run that is analysed."""
    return next(iter(plan.runs.values()))


def _finetune(made: Mapping[str, Made]) -> Outcome:
    curves = made["probe"].read()["curves"]
    rows: list[Row] = []
    numbers: dict[str, Any] = {}
    for name, curve in curves.items():
        last = len(curve["eps"]) - 1
        cells = {
            title: {"estimate": curve["accuracy"][at], "low": curve["low"][at], "high": curve["high"][at]}
            for title, at in (("clean", 0), ("PGD", last))
        }
        rows.append({"classifier": name, **cells})
        numbers |= {f"{name}, {title}": cell for title, cell in cells.items()}
    for title in ("clean", "PGD"):
        if f"fine-tuned encoder, {title}" in numbers:
            tuned, at = numbers[f"fine-tuned encoder, {title}"], numbers[f"at, {title}"]
            numbers[f"fine-tuned minus at, {title}"] = separate(tuned, at)
    run = made["run"].read()["methods"]
    for title, kind in (("clean", "clean"), ("PGD", "autoattack")):
        if "at+dra" in run and f"fine-tuned encoder, {title}" in numbers:
            numbers[f"dra minus fine-tuned, {title}"] = separate(
                limits(run["at+dra"][kind]), numbers[f"fine-tuned encoder, {title}"]
            )
    return Outcome(
        tables=[Table("Accuracy, %; PGD on the margin at the largest radius", rows, "probe")], numbers=numbers
    )


FINETUNE = Item(
    key="dra/section-5.6-finetune",
    paper="DRA",
    title="Adversarial fine-tuning of the diffusion encoder itself",
    products=lambda plan: {"probe": plan.probe, "run": _first(plan)},
    look=_finetune,
    claims=(
        Claim(
            "The fine-tuned diffusion encoder beats adversarial training of a classifier (87.77 and 55.76 against "
            "84.33 and 55.25).",
            everyone(
                *(
                    larger(f"fine-tuned minus at, {kind}", f"fine-tuned encoder minus AT, {kind}")
                    for kind in ("clean", "PGD")
                )
            ),
        ),
        Claim(
            "AT+DRA is better than the fine-tuned encoder, clean and robust.",
            everyone(
                larger("dra minus fine-tuned, clean", "AT+DRA minus fine-tuned encoder, clean"),
                larger("dra minus fine-tuned, PGD", "AT+DRA under AutoAttack minus fine-tuned encoder under PGD"),
            ),
        ),
    ),
    printed=("dra-section-5-6-finetune",),
    remark="The fine-tuned encoder is judged by PGD, which is the weaker attack: AT+DRA stands against it at a "
    "disadvantage. The size of the encoder differs from the classifier's, as in the paper.",
)


def _appendix_c(made: Mapping[str, Made]) -> Outcome:
    rows = made["probe"].read()["fresh noise"]
    names = {
        "clean": "clean",
        "noise": "random noise",
        "without_eot": "PGD",
        "with_eot": "PGD with EOT",
        "fixed_noise": "noise known",
    }
    table: list[Row] = [
        {"noise level": row["sigma"], "radius": row["eps"], "images": row["images"]}
        | {title: row[name] for name, title in names.items()}
        for row in rows
    ]
    numbers = {f"{row['sigma']:g}": separate(row["without_eot"], row["with_eot"]) for row in rows}
    return Outcome(
        tables=[Table("A probe with fresh noise at every query, %", table, "probe")], numbers={"gaps": numbers}
    )


def _any_gap(numbers: Numbers) -> Finding:
    """Held if at some noise level the interval of the gap lies above zero."""
    gaps: Mapping[str, Limits] = numbers["gaps"]
    best = max(gaps, key=lambda sigma: gaps[sigma]["estimate"])
    text = ", ".join(f"sigma {sigma} {points(gap)}" for sigma, gap in gaps.items())
    return Finding(sign_of(gaps[best]), f"PGD minus PGD with EOT: {text}")


APPENDIX_C = Item(
    key="dra/appendix-c",
    paper="DRA",
    title="Robustness of a noisy probe that EOT takes away",
    products=lambda plan: {"probe": plan.probe},
    look=_appendix_c,
    claims=(
        Claim(
            "An attack that averages over the noise leaves less of a noisy head's robustness than one that does not.",
            _any_gap,
        ),
    ),
    printed=("dra-appendix-c",),
    remark="The paper's number is of Yagoda et al.'s attention head; here a linear probe with the same kind of noise.",
)

TABLES = (TABLE_1, TABLE_2, TABLE_3, TARGET, FINETUNE, APPENDIX_C)
