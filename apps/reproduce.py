r"""The tables, figures and theorems of both papers, measured: from an item's name to numbers beside the paper's.

    uv run apps/reproduce.py list
    uv run apps/reproduce.py mae-pure/table-1 dra/fig-3b
    uv run apps/reproduce.py all --scale digits
    uv run apps/reproduce.py all --scale paper --launcher slurm --gpus-per-node 8 --slurm.account=lab \
        --weights cifar10/edm=edm-cifar10.safetensors cifar10/classifier=robustbench:Standard
    uv run apps/reproduce.py status --scale paper

What several items need is made once and found again; an interrupted call goes on. `report.py` makes one page of it.
"""

import sys

from rp_experiments import cli
from rp_experiments.papers.options import ReproduceOptions, start

if __name__ == "__main__":
    sys.exit(cli.guarded(lambda: start(cli.parse(ReproduceOptions))))
