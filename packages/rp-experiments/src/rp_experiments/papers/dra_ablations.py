"""What else Section 5.6 and Appendix C of the DRA paper try: another target, the encoder itself, a noisy head."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rp_models.data.catalog import describe

from rp_experiments.artifacts import Made, Product
from rp_experiments.papers.claims import (
    FAILED,
    HELD,
    OPEN,
    Claim,
    Finding,
    Numbers,
    estimated,
    everyone,
    larger,
    points,
    widened,
)
from rp_experiments.papers.dra_tables import limits
from rp_experiments.papers.intervals import paired, separate
from rp_experiments.papers.item import Item, Outcome, Row, Table

if TYPE_CHECKING:
    from rp_experiments.papers.plan import Plan


def _first(plan: "Plan") -> Product:
    """The run that is analysed."""
    return next(iter(plan.runs.values()))


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
    numbers["time"] = _time_factor(made["probe"], made["run"])
    return Outcome(
        tables=[Table("Accuracy, %; PGD on the margin at the largest radius", rows, "probe")], numbers=numbers
    )


def _time_factor(probe: Made, run: Made) -> float | None:
    """Training time of the fine-tuned encoder over that of AT+DRA, per epoch of as many images."""
    tuned, aligned = (one.read()["seconds"].get(name) for one, name in ((probe, "fine-tuned-encoder"), (run, "at+dra")))
    settings = run.product.config
    whole = settings.train_images or describe(settings.data).split_sizes.get("train")
    if not (tuned and aligned and whole):
        return None
    epochs = settings.training.epochs * (settings.training.epoch_images or whole) / whole
    return float(tuned / probe.product.config.fine_tuning.epochs / (aligned / epochs))


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
        Claim(
            "Fine-tuning the encoder takes longer than AT+DRA (1.35 times an epoch's time).",
            estimated("time", "time of an epoch, fine-tuned encoder over AT+DRA", held=2.0, failed=0.5),
        ),
    ),
    printed=("dra-section-5-6-finetune",),
    remark="The fine-tuned encoder is judged by PGD, which is the weaker attack: AT+DRA stands against it at a "
    "disadvantage. The size of the encoder differs from the classifier's, as in the paper. The two were trained at "
    "different times on a machine that did other things too: only a factor of two says anything about their cost.",
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
    """Held if at some noise level the gap is above zero and at none below, 95% for all levels together."""
    gaps = {sigma: widened(gap, len(numbers["gaps"])) for sigma, gap in numbers["gaps"].items()}
    above, below = (any(gap["low"] > 0 for gap in gaps.values()), any(gap["high"] < 0 for gap in gaps.values()))
    text = ", ".join(f"sigma {sigma} {points(gap)}" for sigma, gap in gaps.items())
    verdict = HELD if above and not below else FAILED if below and not above else OPEN
    return Finding(verdict, f"PGD minus PGD with EOT, 95% for all noise levels together: {text}")


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

ABLATIONS = (TARGET, FINETUNE, APPENDIX_C)
