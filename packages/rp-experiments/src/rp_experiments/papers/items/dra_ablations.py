"""What else Section 5.6 and Appendix C of the DRA paper try: another target, the encoder itself, a noisy head."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from rp_models.data.catalog import describe

from rp_experiments.artifacts import Built
from rp_experiments.papers.claims import Check, decided, in_one_direction, rule
from rp_experiments.papers.item import Measured, Products, Table
from rp_experiments.papers.items.dra_tables import KINDS, method_rows
from rp_experiments.papers.items.looks import curves, first, gap, item, methods
from rp_experiments.results import Limits, limits
from rp_experiments.statistics import paired, separate
from rp_experiments.tables import Row

if TYPE_CHECKING:
    from rp_experiments.papers.plan import Plan


@item("dra/section-5.6-target", products=lambda plan: {"run": first(plan.runs), "noisy": plan.noisy})
def another_target(made: Mapping[str, Built]) -> Measured:
    """Alignment with a noisy-input encoder."""
    run, noisy = made["run"], made["noisy"]
    usual = method_rows(run, "alignment target", {"dm-at": "none (DM-AT)", "dm-at+dra": "diffusion model"})
    other = method_rows(noisy, "alignment target", {"dm-at+dra": "noisy-input encoder"})
    right, theirs = run.read("images.json"), noisy.read("images.json")["dm-at+dra"]
    return Measured(
        tables=[
            Table("DM-AT and DM-AT+DRA, %", usual, "run"),
            Table("The same with the noisy-input encoder as target, %", other, "noisy"),
        ],
        numbers={
            f"{base} minus noisy, {kind}": paired(right[base][kind], theirs[kind]) if base in right else None
            for base in ("dm-at", "dm-at+dra")
            for kind in KINDS
        },
    )


def _with_table_2(plan: "Plan") -> Products:
    """The probe's classifiers, and the run that the paper compares with: Table 2's without synthetic images."""
    return {"probe": plan.probe, "run": plan.runs.get("cifar10-wrn-34-10", first(plan.runs))}


@item("dra/section-5.6-finetune", products=_with_table_2)
def the_encoder_itself(made: Mapping[str, Built]) -> Measured:
    """Adversarial fine-tuning of the diffusion encoder beside AT and AT+DRA."""
    ends = {name: {"clean": curve[0], "PGD": curve[-1]} for name, curve in curves(made["probe"]).items()}
    ends = {name: {kind: limits(cell) for kind, cell in both.items()} for name, both in ends.items()}
    rows: list[Row] = [{"classifier": name, **both} for name, both in ends.items()]
    tables = [Table("Accuracy, %; PGD on the margin at the largest radius", rows, "probe")]
    tuned, plain = (
        dict[str, Limits](clean=ends[name]["clean"], attacked=ends[name]["PGD"]) if name in ends else {}
        for name in ("fine-tuned encoder", "at")
    )
    trained, judged = methods(made["run"]), made["probe"].read().get("autoattack")
    if judged:  # then all stand under the same attack
        found = {name: {kind: limits(cell) for kind, cell in both.items()} for name, both in judged.items()}
        shown: list[Row] = [
            {"classifier": name, **{KINDS[k]: v for k, v in both.items()}} for name, both in found.items()
        ]
        tables = [Table("Accuracy, clean and under AutoAttack, %", shown, "probe"), *tables]
        tuned, plain = (_robust(of) for of in (found.get("fine-tuned encoder"), trained.get("at", found.get("at"))))
    aligned = _robust(trained.get("at+dra"))
    numbers: dict[str, Any] = {"time": _time_factor(made["probe"], made["run"])}
    for kind in ("clean", "attacked"):
        numbers[f"fine-tuned minus at, {kind}"] = gap(tuned.get(kind), plain.get(kind))
        numbers[f"dra minus fine-tuned, {kind}"] = gap(aligned.get(kind), tuned.get(kind))
    rows = method_rows(made["run"], "method", {"at": "AT", "at+dra": "AT+DRA"})
    return Measured(tables=[*tables, Table("The run's classifiers, %", rows, "run")], numbers=numbers)


def _robust(found: Mapping[str, Limits] | None) -> dict[str, Limits]:
    """Clean and robust accuracy, the latter under AutoAttack."""
    return {"clean": found["clean"], "attacked": found["autoattack"]} if found else {}


def _time_factor(probe: Built, run: Built) -> float | None:
    """Training time of the fine-tuned encoder over that of AT+DRA, per epoch of as many images."""
    tuned, aligned = (one.read()["seconds"].get(name) for one, name in ((probe, "fine-tuned-encoder"), (run, "at+dra")))
    settings = run.artifact.config
    whole = settings.train_images or describe(settings.data).split_sizes.get("train")
    if not (tuned and aligned and whole):
        return None
    epochs = settings.training.epochs * (settings.training.epoch_images or whole) / whole
    return float(tuned / probe.artifact.config.fine_tuning.epochs / (aligned / epochs))


@item("dra/appendix-c", "probe")
def a_noisy_head(made: Mapping[str, Built]) -> Measured:
    """A probe with fresh noise under attacks with and without EOT."""
    rows = made["probe"].read()["fresh noise"]
    names = {"clean": "clean", "noise": "random noise", "without_eot": "PGD", "with_eot": "PGD with EOT"}
    names |= {"fixed_noise": "noise known"} | ({"autoattack": "AutoAttack"} if "autoattack" in rows[0] else {})
    table: list[Row] = [
        {"noise level": row["sigma"], "radius": row["eps"], "images": row["images"]}
        | {title: limits(row[name]) for name, title in names.items()}
        for row in rows
    ]
    gaps = {f"{row['sigma']:g}": separate(limits(row["without_eot"]), limits(row["with_eot"])) for row in rows}
    head = "An attention head" if made["probe"].artifact.config.noisy_probe.head == "attention" else "A linear probe"
    title = f"{head} with fresh noise at every query, %"
    return Measured(tables=[Table(title, table, "probe")], numbers={"gaps": gaps})


@rule
def one_direction(name: str, place: str, what: str) -> Check:
    """That some of several differences are above zero and none below: 95% for all of them together."""
    return decided(f"{what}, 95% for all of them together", name, by=lambda gaps: in_one_direction(gaps, place))
