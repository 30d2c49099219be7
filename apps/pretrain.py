"""Train a model on a data set's training split: a masked autoencoder, a diffusion model, or a standard classifier.

The kind comes first: mae, edm, maskdit or classifier. Without further arguments: the embedded digits, a few minutes on
two cores.

    uv run apps/pretrain.py mae
    uv run apps/pretrain.py edm --recipe fashion-mnist --out runs/mine
    uv run apps/pretrain.py classifier --data pictures/ --standard.steps 5000
    uv run apps/pretrain.py maskdit --resume
    uv run torchrun --nproc-per-node 8 apps/pretrain.py edm --recipe cifar10
"""

import sys

from rp_experiments import cli
from rp_experiments.recipes.pretrain import KINDS


def main() -> None:
    """The kind decides which options there are."""
    kind = sys.argv[1] if len(sys.argv) > 1 else ""
    if kind in ("-h", "--help"):
        print(f"{__doc__}\nAll options of a kind: {', '.join(f'pretrain.py {name} --help' for name in KINDS)}")
        return
    if kind not in KINDS:
        raise ValueError(f"the first argument must be one of {', '.join(KINDS)}, got {kind!r}; see --help")
    cli.start(cli.parse(KINDS[kind].options, KINDS[kind].recipes), "pretrain:pretrain")


if __name__ == "__main__":
    sys.exit(cli.guarded(main))
