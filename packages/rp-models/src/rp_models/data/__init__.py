"""Data sets: real images with fixed splits, synthetic ones, and how a training batch is put together."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
