"""The work of `reproduce.py`: products that are missing, side by side; then what the items say about them."""

import contextlib
import multiprocessing
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path

from rp_models.checkpoint import CheckpointError
from rp_models.data.datasets import DataError
from rp_models.training import RunFolder
from rp_models.training.loop import Interrupted
from rp_models.training.run import RunError

from rp_experiments.artifacts import Product, Shelf, in_order
from rp_experiments.papers.item import Item
from rp_experiments.papers.makers import Where, make, use_one_thread
from rp_experiments.papers.plan import Plan

_EXPECTED = (CheckpointError, DataError, Interrupted, RunError, OSError)  # what a user can cause, one sentence each


def reproduce(items: Sequence[Item], plan: Plan, out: Path, *, where: Where, processes: int = 1) -> list[str]:
    """Make what the items need and is not there, then write what each of them says.

    Args:
        items: in the order in which they are written.
        plan: of the scale.
        out: folder of products and items.
        where: device, cache and data.
        processes: products that are made side by side.

    Returns:
        What went wrong, one sentence for each product that could not be made.
    """
    shelf = Shelf(out)
    missing = [p for p in in_order(p for item in items for p in item.products(plan).values()) if not shelf.has(p)]
    print(f"{len(missing)} products to make, about {sum(p.minutes for p in missing):.0f} minutes of one core")
    failed = make_all(missing, shelf, where, processes)
    folder = RunFolder(out)
    for item in items:
        needed = in_order(item.products(plan).values())
        if all(shelf.has(product) for product in needed):
            record = item.record(plan, shelf)
            folder.write_json(f"items/{item.slug}.json", record)
            verdicts = [claim["verdict"] for claim in record["claims"]]
            print(f"{item.key:28} " + ", ".join(verdicts))
        else:
            names = [product.name for product in needed if product.name in failed]
            print(f"{item.key:28} not made: {', '.join(names) or 'something that it needs is missing'}")
    return list(failed.values())


def make_all(products: Sequence[Product], shelf: Shelf, where: Where, processes: int) -> dict[str, str]:
    """Make products, each after what it needs; one that fails does not stop those that do not need it.

    Args:
        products: none of them finished, each after those that it needs.
        shelf: where they are kept.
        where: device, cache and data.
        processes: so many at a time; with one, this process makes them.

    Returns:
        By the product's name what went wrong.
    """
    failed: dict[str, str] = {}
    waiting, running = list(products), dict[Future[str], Product]()
    with _Workers(processes) as workers:
        while waiting or running:
            for product in _ready(waiting, shelf, failed)[: workers.free(len(running))]:
                waiting.remove(product)
                print(f"{_clock()} {product.name} ...", file=sys.stderr, flush=True)
                running[workers.submit(product, shelf, where)] = product
            if not running:  # the rest needs something that failed
                break
            done, _ = wait(running, return_when=FIRST_COMPLETED)
            for future in done:
                product, problem = running.pop(future), future.result()
                print(f"{_clock()} {product.name} {problem or 'is there'}", file=sys.stderr, flush=True)
                if problem:
                    failed[product.name] = f"{product.name}: {problem}"
    return failed


class _Workers:
    """Processes that make products, or this one."""

    def __init__(self, processes: int) -> None:
        self.processes = processes
        self.pool: ProcessPoolExecutor | None = None
        if processes > 1:
            context = multiprocessing.get_context("spawn")
            self.pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_start, initargs=(os.getpid(),))

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *_: object) -> None:
        if self.pool:
            self.pool.shutdown(wait=False, cancel_futures=True)

    def free(self, running: int) -> int:
        """How many more products can be started."""
        return self.processes - running

    def submit(self, product: Product, shelf: Shelf, where: Where) -> Future[str]:
        """Start one; what it prints goes to a file in `logs/`."""
        if self.pool:
            return self.pool.submit(_make_quietly, product, shelf, where)
        future: Future[str] = Future()
        future.set_result(_make_quietly(product, shelf, where))
        return future


def _ready(waiting: Sequence[Product], shelf: Shelf, failed: dict[str, str]) -> list[Product]:
    """Those whose needs are finished, the longest first."""
    ready = [p for p in waiting if all(shelf.has(need) for need in p.needs.values()) and p.name not in failed]
    return sorted(ready, key=lambda product: -_chain(product, waiting))


def _chain(product: Product, waiting: Sequence[Product]) -> float:
    """Minutes of a product and of the longest chain of others that wait for it."""
    after = (_chain(p, waiting) for p in waiting if product.name in {need.name for need in p.needs.values()})
    return product.minutes + max(after, default=0.0)


def _make_quietly(product: Product, shelf: Shelf, where: Where) -> str:
    """Make one product; gives the sentence about what went wrong, "" if nothing did."""
    log = shelf.path / "logs" / f"{product.name}.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        try:
            make(product, shelf, where)
        except _EXPECTED as error:
            return str(error)
        except Exception as error:  # a fault of the program: the other products shall still be made
            traceback.print_exc()
            return f"{type(error).__name__}: {error} (see {log})"
    return ""


def _start(parent: int) -> None:
    """In a new process: one thread, and an end soon after the parent's, which cannot tell if it is killed."""

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1.0)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
    use_one_thread()


def _clock() -> str:
    return time.strftime("%H:%M:%S")
