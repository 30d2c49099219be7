"""The pieces that runs and products of `reproduce.py` are counted in, by the settings on which their cost depends.

A piece is a method of a run, a network's training, a row or a case of a table. Importing this does not import torch.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from typing import Any

from rp_dra.alignment_settings import FROM_EDM, AlignmentSettings
from rp_dra.encoder_settings import EncoderSettings
from rp_dra.settings import Method, uses_alignment, uses_synthetic
from rp_models.settings import EdmSettings
from rp_purify.settings import PurifierSettings
from rp_purify.settings.base import ROLES

from rp_experiments.artifacts import Artifact
from rp_experiments.content import address
from rp_experiments.papers.settings import AttackTable, Case, Networks, Pilot
from rp_experiments.recipes.compare_purifiers import Comparison, Rows
from rp_experiments.recipes.dra import SyntheticSettings, TrainDra
from rp_experiments.recipes.finetuning import Finetuning
from rp_experiments.recipes.pretrain_settings import Pretrain, PretrainEdm
from rp_experiments.recipes.probe import ProbeStudy
from rp_experiments.recipes.sweep import Sweep, configurations

# settings on which no cost depends: seeds, names of files
_NOT_COUNTED = (
    "seed", "threads", "paths", "diffusion_model", "checkpoint", "autoencoder", "latent_statistics", "pretrained",
    "frechet_network", "compared", "lr", "noise_std", "class_weight", "weight_decay", "run", "vae", "latents",
)  # fmt: skip
_FILES = ("classifier", "mae", "nim", "dmae", "atop", "maskdit", "edm", "rmae", "rmaskdit", "model", "auxiliary_model")


@dataclass(frozen=True)
class Piece:
    """A part of a run that is counted by itself: by the function `kind` of `parts`, from settings."""

    name: str
    kind: str
    config: Any  # a dataclass, or several by name

    @cached_property
    def key(self) -> str:
        """A hash of the settings on which the cost depends; those that are off do not enter."""
        config = self.config if isinstance(self.config, Mapping) else {"config": self.config}
        settings = {name: one if isinstance(one, str) else asdict(one) for name, one in config.items()}
        return address([self.kind, _counted(settings)], size=8)


def _counted(value: Any) -> Any:
    """Settings without those that no cost depends on; a new setting that is off leaves the rest as it was."""
    if isinstance(value, Mapping):
        kept = {key: _counted(one) for key, one in value.items() if key not in _NOT_COUNTED}
        named = {key: one for key, one in kept.items() if not (key in _FILES and isinstance(one, str))}
        return {key: one for key, one in named.items() if one not in (None, False, "", 0, [], {})}
    return [_counted(one) for one in value] if isinstance(value, list | tuple) else value


def pieces_of(artifact: Artifact) -> list[Piece]:
    """The pieces of a product of `reproduce.py`; networks that are given or made by other products are none of them.

    A job that nobody can count is one piece of kind "unknown".
    """
    of = _JOBS.get(artifact.job)
    return list(of(artifact)) if of else [Piece(artifact.job, "unknown", artifact.config)]


def of_run(config: TrainDra) -> Iterator[Piece]:
    """A run of `train_dra.py`: diffusion model and synthetic images where it makes them, and each method."""
    if config.trains_diffusion_model:
        yield Piece("edm", "pretrain", PretrainEdm(data=config.data, edm=config.edm))
    if config.uses_synthetic and not config.synthetic.paths:
        only = TrainDra(data=config.data, method=("dm-at",), edm=config.edm, synthetic=config.synthetic)
        yield Piece("synthetic", "drawn", only)
    for method in config.method:
        yield Piece(method, "method", _of_method(config, method))


def _of_method(config: TrainDra, method: Method) -> TrainDra:
    """A run's settings as far as one method depends on them."""
    config = replace(config, method=(method,))
    aligned = uses_alignment(method) and config.alignment.aligns
    if not aligned:
        config = replace(config, alignment=AlignmentSettings(), encoder=EncoderSettings())
    else:
        config = replace(config, alignment=replace(config.alignment, weight=1.0, final_weight=None))
    if not (aligned and config.alignment.target in FROM_EDM):
        config = replace(config, edm=EdmSettings(), diffusion_model="none")
    if not uses_synthetic(method):
        config = replace(config, synthetic=SyntheticSettings())
    return config


def of_comparison(config: Comparison) -> Iterator[Piece]:
    """All of `compare_purifiers.py`: the networks that are not given, then each row."""
    yield from of_networks(config, needed_roles(config))
    yield from (of_row(config, row) for row in config.chosen)


def needed_roles(config: Comparison) -> tuple[str, ...]:
    """The networks that a comparison's rows need, those from which others start among them."""
    found = ["classifier"]
    for row in config.chosen:
        choice = config.purifier(row)
        for role in filter(None, (getattr(choice, name, "") for name in ROLES)):
            making = config.made(role)
            found += [*([_start(config, making)] if isinstance(making, Finetuning) else []), role]
    return tuple(dict.fromkeys(found))


def of_networks(config: Comparison, roles: tuple[str, ...]) -> Iterator[Piece]:
    """The trainings of these networks alone, but of those that are given."""
    for role in roles:
        making = config.made(role)
        if isinstance(making, Finetuning):
            parts = {"tuning": making, "start": _network(config, role), "front": _front(config)}
            yield Piece(role, "finetuned", parts)
        elif making is not None and not getattr(config, role, ""):
            yield Piece(role, "pretrain", making)


def _start(config: Comparison, tuning: Finetuning) -> str:
    """The role whose network a fine-tuned one starts from."""
    named = str(getattr(tuning, tuning.start))
    return named if isinstance(config.made(named), Pretrain) else tuning.start


def _network(config: Comparison, role: str) -> Pretrain:
    """The settings that say what a role's network is, as far as its size goes."""
    trained = config.made(role)
    if isinstance(trained, Finetuning):
        trained = config.made(_start(config, trained))
    if not isinstance(trained, Pretrain):
        raise ValueError(f"how large the network {role} is, is not known before its file is read")
    return architecture(trained)


def _front(config: Comparison) -> Pretrain:
    return _network(config, "classifier")


def architecture(config: Pretrain) -> Pretrain:
    """A pre-training with nothing but what its network is made of."""
    (name,) = (field.name for field in fields(config) if field.name in ("mae", "edm", "maskdit", "standard"))
    settings = getattr(config, name)
    sizes = ("network", "sizes", "num_classes", "model_channels", "channel_mult", "num_blocks", "attn_resolutions",
             "conditional", "mask_rate")  # fmt: skip
    kept = {size: getattr(settings, size) for size in sizes if hasattr(settings, size)}
    return type(config)(data=config.data, **{name: type(settings)(**kept)})


def of_row(config: Comparison, row: str) -> Piece:
    """One row of `compare_purifiers.py`."""
    return Piece(row, "row", _alone(config, row, config.purifier(row)))


def _alone(config: Comparison, row: str, choice: PurifierSettings) -> Comparison:
    """A comparison of one row and its networks, each under the name of the kind that it is of."""
    networks: dict[str, Any] = {"pretrain_classifier": _front(config)}
    variants: dict[str, dict[str, Any]] = {}
    for name in ROLES:
        if role := getattr(choice, name, ""):
            network = _network(config, role)
            kind = _kind(network)
            networks[f"pretrain_{kind}"] = network
            choice = replace(choice, **{name: kind})
    if row in {field.name for field in fields(Rows)}:
        rows = Rows(**{row: choice})
    else:
        settings = {field.name: getattr(choice, field.name) for field in fields(choice) if field.name != "kind"}
        rows, variants = Rows(), {row: {"kind": choice.kind, **settings}}
    return Comparison(
        data=config.data, only=(row,), compared=(), images=config.images, exhaustive=config.exhaustive,
        batch_size=config.batch_size, block_size=config.block_size, compute=config.compute, budget=config.budget,
        rows=rows, variants=variants, **networks,
    )  # fmt: skip


def _kind(network: Pretrain) -> str:
    """The role that a network of these settings has by itself: mae, nim, maskdit, edm."""
    return type(network).__name__.removeprefix("Pretrain").lower()


def of_case(config: AttackTable, case: Case) -> Piece:
    """One case of an attack table."""
    comparison = _alone(config.comparison, case.row, config.comparison.purifier(case.row))
    in_norm = {norm: {case.row: rows[case.row]} for norm, rows in config.in_norm.items() if case.row in rows}
    classifiers: dict[str, Any] = {}
    if case.classifier:
        classifiers[case.classifier] = architecture(config.classifiers[case.classifier])
    one = replace(case, name="case")
    table = replace(config, comparison=comparison, cases=(one,), in_norm=in_norm, classifiers=classifiers)
    return Piece(case.name, "case", table)


def _of_table(artifact: Artifact) -> Iterator[Piece]:
    config: AttackTable = artifact.config
    yield from (of_case(config, case) for case in config.cases if config.first_like(case) is case)


def of_sweep(config: Sweep) -> Iterator[Piece]:
    """The runs of a sweep; what several of them need is made once."""
    made: set[str] = set()
    points = list(config.points())
    for seed, runs in configurations(config).items():
        for point, run in zip(points, runs, strict=True):
            for piece in of_run(run):
                shared = piece.kind in ("pretrain", "drawn")
                if not (shared and f"{piece.key} {seed}" in made):
                    yield replace(piece, name=f"{point}, seed {seed}: {piece.name}")
                made.add(f"{piece.key} {seed}")


def _of_probe(artifact: Artifact) -> Iterator[Piece]:
    """The runs' trainings that are baselines, and the rest."""
    config: ProbeStudy = artifact.config
    trained = tuple(name for name in ("standard", "at") if name in config.baselines)
    yield from of_run(replace(config.models, method=trained)) if trained else ()
    yield Piece("probe", "probe", replace(config, models=_of_method(config.models, "dm-at+dra")))


def _of_look(kind: str) -> Callable[[Artifact], Iterator[Piece]]:
    """A product that looks at others: from its settings, and from those of the runs that it looks at."""

    def pieces(artifact: Artifact) -> Iterator[Piece]:
        runs = {role: need.config for role, need in artifact.needs.items() if need.job == "train_dra"}
        yield Piece(kind, kind, {"look": artifact.config, **runs})

    return pieces


def _of_comparison_look(kind: str) -> Callable[[Artifact], Iterator[Piece]]:
    """A look at a comparison's purifiers."""

    def pieces(artifact: Artifact) -> Iterator[Piece]:
        comparison: Comparison = next(n for n in artifact.needs.values() if n.job == "networks").config.comparison
        named = ("classifier", "mae", "maskdit", *(("edm",) if kind == "timing" else ()))
        roles = [role for role in named if comparison.made(role)]
        networks = {role: _network(comparison, role) for role in roles}
        config = artifact.config
        if hasattr(config, "comparison"):
            config = replace(config, comparison=_bare(config.comparison))
        yield Piece(kind, kind, {"look": config, **networks})

    return pieces


def _bare(config: Comparison) -> Comparison:
    """A comparison without what its networks' trainings are."""
    kept = ("data", "images", "budget", "rows", "variants", "compute")
    return Comparison(only=config.chosen, compared=(), **{name: getattr(config, name) for name in kept})


def _of_pilot(artifact: Artifact) -> Iterator[Piece]:
    """Short trainings with each of the values, and short attacks on each."""
    config: Pilot = artifact.config
    for row in config.rows:
        choice = config.trial.purifier(row)
        role = getattr(choice, "mae", "") or getattr(choice, "model", "")
        yield from of_networks(config.trial, (role,))
        yield Piece(row, "quick", _alone(config.trial, row, choice))


def _of_networks(artifact: Artifact) -> Iterator[Piece]:
    config: Networks = artifact.config
    yield from of_networks(config.comparison, config.roles)


_JOBS: dict[str, Callable[[Artifact], Iterator[Piece]]] = {
    "train_dra": lambda artifact: of_run(artifact.config),
    "sweep": lambda artifact: of_sweep(artifact.config),
    "networks": _of_networks,
    "pilot": _of_pilot,
    "compare": lambda artifact: (of_row(artifact.config, row) for row in artifact.config.chosen),
    "attacks": _of_table,
    "probe": _of_probe,
    "analyze": _of_look("analysis"),
    "representations": _of_look("representations"),
    "views": _of_comparison_look("views"),
    "timing": _of_comparison_look("timing"),
    "descent": _of_comparison_look("descent"),
}
