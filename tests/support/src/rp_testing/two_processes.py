"""Two processes that work together, for tests: forks of one that has imported torch, which takes a second less each.

`python -m rp_testing.two_processes worker.py folder restarts` calls the worker's `main(folder)` in both, with the
environment that `torchrun --nproc-per-node 2 --max-restarts` gives: where one of them fails, both are started again.
"""

import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

_FORKS = ("-m", "rp_testing.two_processes")
_TORCHRUN = (
    *("-m", "torch.distributed.run", "--nproc-per-node", "2", "--rdzv-backend", "c10d"),
    *("--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1"),
)


def in_two_processes(worker: Path, folder: Path, *, restarts: int = 0, torchrun: bool = False) -> str:
    """Call a worker's `main(folder)` in two processes, which `torchrun` starts if it shall; what they complained of.

    A worker for `torchrun` calls its `main` as a main program.
    """
    words = [*_TORCHRUN, f"--max-restarts={restarts}", worker, folder]
    if not torchrun:
        words = [*_FORKS, worker, folder, restarts]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo"}
    launch = [sys.executable, *map(str, words)]
    done = subprocess.run(launch, capture_output=True, text=True, env=environment, check=False, timeout=400)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


def _start(main: Callable[[Path], None], folder: Path, rank: int, port: str, attempt: int) -> int:
    """One process; its number."""
    if child := os.fork():
        return child
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    os.environ |= {"MASTER_PORT": port, "TORCHELASTIC_RESTART_COUNT": str(attempt)}
    status = 1
    try:
        main(folder)
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _succeeded(children: set[int]) -> bool:
    """Wait for all processes; when the first one fails, the others are killed."""
    succeeded = True
    while children:
        child, status = os.wait()
        children.remove(child)
        if status and succeeded:
            succeeded = False
            for other in children:
                os.kill(other, signal.SIGKILL)
    return succeeded


def _main(worker: str, folder: str, restarts: str) -> int:
    from rp_models.training.ports import free_port

    main = runpy.run_path(worker)["main"]
    for attempt in range(int(restarts) + 1):
        port = str(free_port())
        if _succeeded({_start(main, Path(folder), rank, port, attempt) for rank in range(2)}):
            return 0
    return 1


if __name__ == "__main__":
    sys.exit(_main(*sys.argv[1:]))
