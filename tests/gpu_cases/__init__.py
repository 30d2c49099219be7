"""Small instances of everything that shall run on a GPU, by name."""

from tests.gpu_cases import analysis, attacks, purification, sampling, training
from tests.gpu_cases.case import CASES

__all__ = ["CASES", "analysis", "attacks", "purification", "sampling", "training"]
