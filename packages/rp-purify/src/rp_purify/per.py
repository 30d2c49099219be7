"""Whether an image's result may depend on the batch that it is in, as that of some published code does."""

from typing import get_args

from rp_purify.settings import Per


def check_per(per: Per) -> Per:
    """The word itself, or a ValueError."""
    if per not in get_args(Per):
        raise ValueError(f"per must be 'image' or 'batch', got {per!r}")
    return per
