"""The work of `reproduce.py`: artifacts that are missing, side by side; then what the items say about them."""

import contextlib
import sys
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import replace

from rp_models.training import Progress
from rp_models.training.loop import Interrupted

from rp_experiments.artifacts import Artifact, Store, build, in_order
from rp_experiments.launch import Launcher
from rp_experiments.papers.item import Item
from rp_experiments.papers.listing import check_data
from rp_experiments.papers.makers import MAKERS
from rp_experiments.papers.plan import Plan
from rp_experiments.run import Run


def reproduce(items: Sequence[Item], run: Run, *, plan: Plan, processes: int = 1) -> None:
    """Make what the items need and is not there, so many at a time, write what each says, and raise what went wrong."""
    if plan.scale == "paper":
        check_data(items, plan, run.root)
    store, run = Store(run.path), replace(run, progress=Progress(), cache=run.cache.resolve())
    needed = in_order(artifact for item in items for artifact in item.needed(plan))
    missing = [artifact for artifact in needed if not store.has(artifact)]
    print(f"{len(missing)} products to make, about {sum(one.minutes for one in missing):.0f} minutes of one core")
    failed = make_all(missing, store, run, processes)
    for item in items:
        if all(store.has(artifact) for artifact in item.needed(plan)):
            record = item.record(plan, store)
            run.folder.write_json(f"items/{item.slug}.json", record)
            said = ", ".join(claim["verdict"] for claim in record["claims"])
        else:
            names = [artifact.name for artifact in item.needed(plan) if artifact.name in failed]
            said = f"not made: {', '.join(names) or 'something that it needs is missing'}"
        print(f"{item.key:28} {said}")
    if failed:
        raise ValueError("; ".join(failed.values()))


def make_all(artifacts: Sequence[Artifact], store: Store, run: Run, processes: int) -> dict[str, str]:
    """Make artifacts, each after what it needs; one that fails does not stop those that do not need it.

    Gives, by the artifact's name, what went wrong. With one process this one makes them.
    """
    failed: dict[str, str] = {}
    waiting, running = list(artifacts), dict[Future[str], Artifact]()
    with Launcher(processes if processes > 1 else 0, threads=1) as launcher:
        while waiting or running:
            for artifact in _ready(waiting, store, failed)[: processes - len(running)]:
                waiting.remove(artifact)
                _say(f"{artifact.name} ...")
                running[launcher.submit(make_quietly, artifact, store, run)] = artifact
            if not running:  # the rest needs something that failed
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                artifact, problem = running.pop(future), future.result()
                _say(f"{artifact.name} {problem or 'is there'}")
                if problem:
                    failed[artifact.name] = f"{artifact.name}: {problem}"
    return failed


def make_quietly(artifact: Artifact, store: Store, run: Run) -> str:
    """Make one artifact, its words in a file in `logs/`; gives what went wrong in a sentence, "" if nothing did."""
    log = store.path / "logs" / f"{artifact.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            build(artifact, store, MAKERS[artifact.job], run)
        except (ValueError, OSError, Interrupted) as error:
            traceback.print_exc()
            return str(error)
        except Exception as error:  # a fault of the program: the others shall still be made
            traceback.print_exc()
            return f"{type(error).__name__}: {error} (see {log})"
    return ""


def _ready(waiting: Sequence[Artifact], store: Store, failed: dict[str, str]) -> list[Artifact]:
    """Those whose needs are finished, the longest first."""
    ready = [one for one in waiting if all(store.has(need) for need in one.needs.values()) and one.name not in failed]
    return sorted(ready, key=lambda artifact: -_chain(artifact, waiting))


def _chain(artifact: Artifact, waiting: Sequence[Artifact]) -> float:
    """Minutes of an artifact and of the longest chain of others that wait for it."""
    after = (_chain(one, waiting) for one in waiting if artifact.name in {need.name for need in one.needs.values()})
    return artifact.minutes + max(after, default=0.0)


def _say(text: str) -> None:
    print(f"{time.strftime('%H:%M:%S')} {text}", file=sys.stderr, flush=True)
