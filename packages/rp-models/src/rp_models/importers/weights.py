"""Where the weights lie in a file of `torch.save`, and what training code has put before their names."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from rp_models.checkpoint import CheckpointError
from rp_models.importers.torch_file import only_tensors

PLACES = ("model_state_dict", "state_dict", "model", "net", "network", "last")  # the first that fits counts
_WRAPPERS = frozenset(("module", "_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module"))  # torch's own
_DEEPEST = 4  # dictionaries inside one another


class Weights(NamedTuple):
    """A network's state dict under its own keys; those outside the network are as they were.

    `anchor` is the key by which it was recognised, `prefix` what stood before that, e.g. "" or "model.1.".
    """

    state: dict[str, Tensor]
    anchor: str
    prefix: str


def find_weights(
    content: Mapping[str, Any], anchors: Sequence[str], kind: str, origin: str | Path, *, places: Sequence[str] = PLACES
) -> Weights:
    """The state dict in a file, bare or inside dictionaries, and without prefixes such as `module.` or `model.`.

    Such a network has one of the keys `anchors`; `kind` and `origin` are what network and file are called in errors.
    Raises CheckpointError if no dictionary has such a key, or entries beside it are no tensors.
    """
    for state in _dictionaries(content, places, _DEEPEST):
        bare = {_without_wrappers(key): value for key, value in state.items() if key != "n_averaged"}
        for anchor in anchors:
            found = [key for key in bare if key == anchor or key.endswith(f".{anchor}")]
            if found:
                if len(bare) < len(state) - ("n_averaged" in state):
                    raise CheckpointError(f"{origin}: some weights are there twice, with and without `module.`")
                prefix = min(found, key=len).removesuffix(anchor)
                tensors = only_tensors(bare, origin)
                return Weights({key.removeprefix(prefix): value for key, value in tensors.items()}, anchor, prefix)
    raise CheckpointError(
        f"{origin}: these are no weights of {kind}: there is no {' or '.join(map(repr, anchors))}, the first keys are "
        f"{list(content)[:3]}"
    )


def _dictionaries(content: Mapping[str, Any], places: Sequence[str], depth: int) -> Iterator[Mapping[str, Any]]:
    """The dictionary and those in it."""
    yield content
    for place in places if depth else ():
        if isinstance(content.get(place), Mapping):
            yield from _dictionaries(content[place], places, depth - 1)


def _without_wrappers(key: object) -> str:
    """The key without what torch's wrappers put anywhere into it."""
    return ".".join(part for part in str(key).split(".") if part not in _WRAPPERS)
