"""Readers of official weight files: each gives an architecture of the zoo, its arguments, and a state dict.

No reader executes anything that stands in a file.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
