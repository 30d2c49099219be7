"""What two processes do in a test: `ranks_worker.py FOLDER [RANK THAT FAILS]`; the first one starts the other."""

import json
import sys
import time
from pathlib import Path

from rp_experiments import cli, launch


def work() -> None:
    with launch.ranks(2):
        from rp_experiments.run import open_run

        with open_run(Path(sys.argv[1]), device="cpu") as run:
            together(run, open_run)


def together(run, open_run) -> None:
    run.claim({})
    rank = str(run.processes.rank)
    if sys.argv[2:] == [rank]:
        raise ValueError(f"rank {rank} has had enough")
    made = []
    with open_run(run.path, device="cpu") as nested:  # a job inside a job does not meet again
        print("nested", nested.processes.count, flush=True)
    items = []
    for item in run.share(range(20)):
        time.sleep(0.02 if run.main else 0.01)
        items.append(item)
    value = run.once("results/one.json", lambda: made.append(1) or "first's")
    whole = []
    run.once("results/both.json", lambda: whole.append(1) or 1, together=True)
    record = {"count": run.processes.count, "items": items, "made": len(made), "value": value, "together": len(whole)}
    (run.path / f"rank-{rank}.json").write_text(json.dumps(record))
    run.processes.wait()


if __name__ == "__main__":
    sys.exit(cli.guarded(work))
