"""Which entries of RobustBench weights may belong to: all whose network has these keys and shapes."""

from collections.abc import Mapping

from torch import Tensor

from rp_models.robustbench.entries import Entry, entries
from rp_models.robustbench.layouts import adapted, digest

_CODE = ("standardized-wide-resnet", "boosting-wide-resnet")  # what these do no mean and std express
# what `read_robust` recognises by keys and shapes
_READ = (*_CODE, "wide-resnet", "dm-wide-resnet", "preact-resnet", "dm-preact-resnet", "cifar-resnet")


def fitting_entries(state: Mapping[str, Tensor]) -> list[Entry]:
    """The entries whose network a state dict of a file fits, without prefix and constants."""
    digests = {network: digest(adapted(state, network)) for network in {entry.network for entry in entries()}}
    return [entry for entry in entries() if entry.keys and entry.keys == digests[entry.network]]


def by_name_only(state: Mapping[str, Tensor]) -> list[Entry]:
    """The fitting entries, if there are any and none has a network whose keys and shapes tell all about it."""
    found, own = fitting_entries(state), digest(state)
    return [] if any(entry.network in _READ and entry.keys == own for entry in found) else found


def by_name(found: list[Entry]) -> str:
    """A sentence that says how weights of such entries are loaded."""
    titles = ", ".join(entry.title for entry in found)
    return f"weights as those of RobustBench's {titles}, which are loaded by name, with rp_models.load_robustbench"


def normalised_in_code(state: Mapping[str, Tensor]) -> list[Entry]:
    """Those of `fitting_entries` whose code normalises the input, so that a file may lack the constants."""
    return [entry for entry in fitting_entries(state) if "mean" in entry.arguments or entry.network in _CODE]


def doubt(found: list[Entry]) -> str:
    """A sentence that names entries and what each needs."""
    ways = [
        f"{entry.title}, which needs its own network"
        if entry.network in _CODE
        else f"{entry.title}, mean={tuple(entry.arguments['mean'])}, std={tuple(entry.arguments['std'])}"
        for entry in found
    ]
    return (
        "the file holds no normalisation constants, and entries of RobustBench with this network keep theirs in code; "
        f"without them the logits are wrong. It could be {'; '.join(ways)}: load these by name, with "
        "rp_models.load_robustbench. If it is none of them and takes images in [0, 1] as they are, "
        "say so with mean=(0, 0, 0), std=(1, 1, 1)"
    )
