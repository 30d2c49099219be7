"""What the packages' tests share: the golden files, and the recipe by which they were made."""

from rp_testing.golden_file import FILES as GOLDEN_FILES
from rp_testing.golden_file import Golden
from rp_testing.recipe import fill_state, fill_value, golden_input

__all__ = ["GOLDEN_FILES", "Golden", "fill_state", "fill_value", "golden_input"]
