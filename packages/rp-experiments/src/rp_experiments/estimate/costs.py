"""The table of what the papers' runs take, and its page: `python -m rp_experiments.estimate.costs docs/costs.md`.

Only what is not in the table yet, or has other settings now, is counted, which takes seconds for each; `--again` counts
everything anew. What is counted is kept at once, so that the command may be stopped.
"""

import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from itertools import groupby
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from rp_models.files import complete_file

from rp_experiments import tables
from rp_experiments.artifacts import Artifact, in_order
from rp_experiments.estimate.cards import CARDS, SHARES
from rp_experiments.estimate.pieces import Piece, of_networks, of_run, pieces_of
from rp_experiments.estimate.products import CARD, TABLE, Table, read, stages_in, total
from rp_experiments.estimate.stages import Estimate
from rp_experiments.launch import cores
from rp_experiments.papers.items import ITEMS
from rp_experiments.papers.scales import SCALES
from rp_experiments.recipes.dra import RECIPES
from rp_experiments.recipes.paper_scale import paper_comparison
from rp_experiments.recipes.pretrain import KINDS

PAPER_DATA = ("cifar10", "cifar100", "svhn", "imagenet")
ORDER = ("method", "pretrain", "finetuned", "drawn", "row", "case")  # in which kinds are counted, what decides first
_SHARES = ", ".join(f"{share:.0%} of the {name}" for name, share in SHARES.items())
_ALWAYS = ("name", "flop", "memory", "precision")  # of an entry, whatever they are
_HEAD = f"""# What the papers' runs take

Written by `python -m rp_experiments.estimate.costs docs/costs.md`; any run's own: `--estimate`.

**Counted, not measured:** operations (two for each multiplication with addition; matrix products, convolutions and
attention) and the most memory at one time, on tensors without values at full size, with the run's own code. One
{CARD}; several share the operations. The micro-batch is the one that a run chooses by itself: the largest divisor of
the batch with which a training step stays below {CARDS[CARD].usable / 2**30:.0f} GiB of {CARDS[CARD].memory} GB, then
activation checkpointing (networks with batch norms are checkpointed first, where they are not compiled); "GiB whole" is
what the whole batch at once would need. Mixed precision is counted by a CPU's rules, whose list of operations in
float32 is shorter than a GPU's. Attacks are counted at full length on every image; images that fall leave earlier. A
step of a purifier is counted once and multiplied.

**Assumed, not measured:** hours are those of {_SHARES} peak
rate of the maker's data sheet. Nothing here was measured on a GPU; `gpu_check.py` measures the share, and
`--estimate --measure` the time of twenty steps on the machine that is there.
"""


def recipes() -> Iterator[tuple[str, Piece]]:
    """The trainings of the papers' data sets, with the command that starts each."""
    for name, make in RECIPES.items():
        if (config := make()).data in PAPER_DATA:
            yield from ((f"train_dra.py --recipe {name}", piece) for piece in of_run(config))
    for kind, options in KINDS.items():
        for name, make in options.recipes.items():
            if (config := make()).data in PAPER_DATA:
                yield f"pretrain.py {kind} --recipe {name}", Piece(kind, "pretrain", config)
    for data in PAPER_DATA:
        roles = {"rmae": "", "rmaskdit": "-maskdit", "adbm": "-adbm", "addt": "-addt"}
        if data == "imagenet":
            roles = {"rmae": ""}  # that of the MaskDiT takes minutes to count, and is among the products
        for piece in of_networks(paper_comparison(data), tuple(roles)):
            yield f"finetune_purifier.py --recipe {data}{roles[piece.name]}", piece


def products() -> list[Artifact]:
    """Everything that `reproduce.py all --scale paper` makes."""
    plan = SCALES["paper"]()
    return in_order(one for item in ITEMS.values() for one in item.needed(plan))


def wanted() -> dict[str, Piece]:
    """Every piece of the page, by its key."""
    pieces = [piece for _, piece in recipes()] + [piece for product in products() for piece in pieces_of(product)]
    return {piece.key: piece for piece in pieces if piece.kind != "unknown"}


def count(piece: Piece) -> dict[str, Any]:
    """A piece's entry of the table."""
    from rp_models.training import RunFolder

    from rp_experiments.estimate.parts import stages_of
    from rp_experiments.run import Run

    stages = stages_of(piece, Run(folder=RunFolder(Path("costs"), writes=False)), CARDS[CARD])
    entries = [{key: value for key, value in asdict(stage).items() if key in _ALWAYS or value} for stage in stages]
    return {"name": piece.name, "kind": piece.kind, "stages": entries}


def update(*, again: bool = False, path: Path = TABLE) -> Table:
    """Count what the table lacks, in as many processes as there are cores, and drop what nobody wants any more."""
    known, pieces = {} if again else dict(read(path)), wanted()
    table = {key: known[key] for key in pieces if key in known}
    missing = [piece for key, piece in pieces.items() if key not in table]
    alike = groupby(sorted(missing, key=lambda piece: (_urgency(piece), _group(piece))), key=_group)
    groups = [part for _, group in alike for part in _batched(list(group), 6)]
    with ProcessPoolExecutor(cores(), mp_context=get_context("spawn")) as pool:
        for future in as_completed([pool.submit(_counted, group) for group in groups]):
            table |= future.result()
            _write({key: table[key] for key in pieces if key in table}, path)
            print(f"{len(pieces) - len(table)} of {len(pieces)} to go", file=sys.stderr, flush=True)
    read.cache_clear()
    return read(path)


def _counted(pieces: list[Piece]) -> dict[str, Any]:
    """The entries of some pieces that are alike, one after the other in one process."""
    found = {}
    for piece in pieces:
        print(f"{piece.kind} {piece.name} ...", file=sys.stderr, flush=True)
        found[piece.key] = count(piece)
    return found


def _batched(pieces: list[Piece], size: int) -> Iterator[list[Piece]]:
    return (pieces[start : start + size] for start in range(0, len(pieces), size))


def _urgency(piece: Piece) -> int:
    return ORDER.index(piece.kind) if piece.kind in ORDER else len(ORDER)


def _group(piece: Piece) -> str:
    """Pieces whose counts have much in common."""
    if piece.kind == "case":
        return f"case {piece.config.cases[0].row}"
    return f"{piece.kind} {piece.name}"


def _write(table: Table, path: Path) -> None:
    lines = ",\n".join(f"{json.dumps(key)}: {json.dumps(value)}" for key, value in sorted(table.items()))
    with complete_file(path) as temporary:
        temporary.write_text(f"{{\n{lines}\n}}\n", encoding="utf-8")


def page(table: Table) -> str:
    """The whole page, from the table alone."""
    made = products()
    hours = sum(total(pieces_of(product), table).hours for product in made)
    rows = [_product(product, table) for product in made]
    said = (
        f"At most {hours:,.0f} hours of one {CARD} together, as far as they are counted. What an attack asks of "
        "another network than the one that it attacks is left out."
    )
    heads = (_HEAD.rstrip(), trainings(table), "## Products of `reproduce.py all --scale paper`", said)
    return "\n\n".join([*heads, tables.markdown(rows)]) + "\n"


def trainings(table: Table) -> str:
    """The section of the trainings."""
    rows = [row for command, piece in recipes() for row in _rows(command, piece, table)]
    return f"## Trainings\n\n{tables.markdown(rows)}"


def _rows(command: str, piece: Piece, table: Table) -> list[tables.Row]:
    stages = stages_in(table, piece)
    if stages is None:
        return [{"run": f"`{command}`", "stage": piece.name, "note": "not counted"}]
    found = Estimate(stages=stages, card=CARDS[CARD]).rows()
    return [{"run": f"`{command}`", **row} for row in found]


def _product(product: Artifact, table: Table) -> tables.Row:
    pieces = pieces_of(product)
    cost = total(pieces, table)
    about = ", ".join(dict.fromkeys(piece.name for piece in pieces))
    return {
        "product": product.name,
        "of": about if len(about) <= 120 else f"{len(pieces)} pieces: {about[:100]} …",
        "hours": f"{cost.hours:.2g}" if cost.hours < 10 else f"{cost.hours:,.0f}",
        "GiB": f"{cost.memory / 2**30:.1f}",
        "disk GB": f"{cost.disk / 1e9:.2g}" if cost.disk else None,
        "not counted": ", ".join(cost.missing) or None,
    }


def main(words: list[str]) -> None:
    """Bring the table up to date, and write the page where one is named."""
    table = update(again="--again" in words)
    for target in (Path(word) for word in words if not word.startswith("--")):
        with complete_file(target) as temporary:
            temporary.write_text(page(table), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
