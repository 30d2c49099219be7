"""Features of any layer of any module, streamed to a memory-mapped file that an interrupted run continues."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from .modes import eval_mode

Pool = Literal["mean", "first", "flatten"]
_COMPARED = 2  # rows of a file that are computed again before it goes on


class Features(NamedTuple):
    """Stored features: (n, d) memory-mapped array, (n,) image indices, and how they were made."""

    array: npt.NDArray[np.floating]
    image: npt.NDArray[np.int64]
    about: dict[str, Any]


def extract_features(
    model: nn.Module,
    batches: Iterable[tuple[Tensor, Tensor]],
    path: str | Path,
    *,
    n: int,
    layer: str | None = None,
    pool: Pool = "mean",
    forward: Callable[[Tensor], Any] | None = None,
    dtype: Literal["float32", "float16"] = "float32",
    flush_every: int = 32,
) -> Features:
    """Writes a layer's features of n images to `path` (.npy), with indices and a record beside it.

    If `path` exists from an interrupted run with the same settings, rows already written are skipped; `batches` must
    then yield the same images in the same order, which their indices prove. The record holds a fingerprint of the
    weights, and the first rows are computed again and compared, so that no two models or layers ever share a file.

    Args:
        model: any module; run in eval mode without gradients, its mode is restored.
        batches: pairs of image indices (b,) and images (b, c, h, w) on the model's device.
        path: of the features; `<path>.index.npy` and `<path>.json` are written beside it.
        layer: name of a submodule, as in `named_modules()`, whose output is taken; None takes `forward_features`
            if the model has it and the model's output otherwise.
        pool: "mean" over space (b, c, h, w) or tokens (b, t, d); "first" token; "flatten" keeps everything.
        forward: what is called on a batch if not `model(x)`, e.g. `lambda x: model(x, sigma)`.
        flush_every: batches between two records of progress.

    Raises:
        ValueError: an unknown layer or option, other settings or indices than the file's, too few or many images.
    """
    path = Path(path)
    if pool not in get_args(Pool) or n < 1 or dtype not in ("float32", "float16"):
        raise ValueError(f"pool must be one of {get_args(Pool)}, n positive; got pool={pool!r}, n={n}, dtype={dtype!r}")
    settings = {"n": n, "layer": layer, "pool": pool, "dtype": dtype, "model": type(model).__name__}
    settings["weights"] = _fingerprint(model)
    writer = _Writer(path, settings)
    read = _reader(model, layer, forward)
    with eval_mode(model), torch.inference_mode():
        for batch, (index, x) in enumerate(batches, 1):
            writer.check(index)
            if batch == 1 and writer.done:
                few = x[: min(_COMPARED, writer.done)]
                writer.compare(*(_pooled(read(few), pool) for _ in range(2)))
            fresh = slice(max(0, writer.done - writer.seen), None)  # rows that an earlier run has not written
            if len(index[fresh]):
                writer.write(_pooled(read(x[fresh]), pool), index[fresh])
            writer.seen += len(index)
            if batch % flush_every == 0:
                writer.flush()
    writer.flush()
    if writer.done < n:
        raise ValueError(f"batches ended after {writer.done} of {n} images; call again with all of them to continue")
    return open_features(path)


def open_features(path: str | Path) -> Features:
    """Opens features that `extract_features` has written; changes to the array do not reach the file.

    Raises:
        ValueError: the file is not complete.
    """
    path = Path(path)
    about = json.loads(_beside(path, ".json").read_text())
    if about["done"] < about["n"]:
        raise ValueError(f"{path} holds {about['done']} of {about['n']} images; run extract_features again to continue")
    return Features(np.load(path, mmap_mode="c"), np.load(_beside(path, ".index.npy")), about)


class _Writer:
    """The files of one extraction: features, indices and the record of progress."""

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path, self.settings = path, settings
        self.done = self.seen = 0
        self.array: np.memmap[Any, Any] | None = None
        self.index: np.memmap[Any, Any] | None = None
        record = _beside(path, ".json")
        if record.exists():
            about = json.loads(record.read_text())
            self.done = about.pop("done")
            if about != settings:
                raise ValueError(f"{path} was begun with {about}, not {settings}; choose another path or delete it")
            self.array = np.lib.format.open_memmap(path, mode="r+")
            self.index = np.lib.format.open_memmap(_beside(path, ".index.npy"), mode="r+")

    def check(self, index: Tensor) -> None:
        """Refuses images beyond n and, among those written before, other images than the file's."""
        if self.seen + len(index) > self.settings["n"]:
            raise ValueError(f"batches hold more than n = {self.settings['n']} images")
        old = min(self.done - self.seen, len(index))
        if old > 0 and self.index is not None:
            stored = self.index[self.seen : self.seen + old]
            if not np.array_equal(stored, index[:old].cpu().numpy()):
                raise ValueError(f"{self.path} was begun with other images or another order; delete it to start anew")

    def compare(self, rows: Tensor, again: Tensor) -> None:
        """Refuses a model whose features are not those of the file; one that is random cannot be told from another."""
        assert self.array is not None
        first, second = rows.float().cpu(), again.float().cpu()
        stored = torch.from_numpy(np.array(self.array[: len(rows)])).float()

        def differ(other: Tensor) -> bool:
            return first.shape != other.shape or bool((first - other).abs().max() > 0.01 * first.abs().max())

        if differ(stored) and not differ(second):
            raise ValueError(
                f"{self.path} was begun with another model: of the same type and weights, but with other features; "
                "choose another path or delete it"
            )

    def write(self, rows: Tensor, index: Tensor) -> None:
        """Stores the features of the next images."""
        if self.array is None or self.index is None:
            n, dtype = self.settings["n"], self.settings["dtype"]
            self.path.parent.mkdir(parents=True, exist_ok=True)
            shape = (n, rows.shape[1])
            self.array = np.lib.format.open_memmap(self.path, mode="w+", dtype=dtype, shape=shape)
            beside = _beside(self.path, ".index.npy")
            self.index = np.lib.format.open_memmap(beside, mode="w+", dtype=np.int64, shape=(n,))
        stop = self.done + len(rows)
        self.array[self.done : stop] = rows.float().cpu().numpy()
        self.index[self.done : stop] = index.cpu().numpy()
        self.done = stop

    def flush(self) -> None:
        """Records progress, after the rows themselves are on disk."""
        if self.array is None or self.index is None:
            return
        self.array.flush()
        self.index.flush()
        temporary = _beside(self.path, ".json.tmp")
        temporary.write_text(json.dumps(self.settings | {"done": self.done}, indent=1))
        temporary.replace(_beside(self.path, ".json"))


def _fingerprint(model: nn.Module) -> str:
    """A hash of all parameters and buffers."""
    digest = hashlib.blake2b(digest_size=16)
    for name, value in model.state_dict().items():
        digest.update(name.encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _reader(model: nn.Module, layer: str | None, forward: Callable[[Tensor], Any] | None) -> Callable[[Tensor], Any]:
    """A function from images to the output of the layer."""
    if layer is None:
        default: Callable[[Tensor], Any] = getattr(model, "forward_features", model)
        return forward or default
    modules = dict(model.named_modules())
    if layer not in modules:
        raise ValueError(f"the model has no layer {layer!r}; it has {', '.join(name for name in modules if name)}")

    def read(x: Tensor) -> Any:
        seen: list[Any] = []
        handle = modules[layer].register_forward_hook(lambda module, args, output: seen.append(output))
        try:
            (forward or model)(x)
        finally:
            handle.remove()
        if not seen:
            raise ValueError(f"the forward pass never reached layer {layer!r}")
        return seen[-1]

    return read


def _pooled(output: Any, pool: Pool) -> Tensor:
    """The output as a matrix (b, d)."""
    if isinstance(output, (tuple, list)):
        output = output[0]
    if not isinstance(output, Tensor) or output.ndim < 2:
        raise ValueError(f"the layer must give a tensor (b, ...), got {type(output).__name__}")
    if output.ndim == 2 or pool == "flatten":
        return output.flatten(1)
    if pool == "first":
        if output.ndim != 3:
            raise ValueError(f"pool='first' takes tokens (b, t, d), got shape {tuple(output.shape)}")
        return output[:, 0]
    return output.mean(dim=1) if output.ndim == 3 else output.flatten(2).mean(dim=2)
