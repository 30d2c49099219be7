"""MaskDiT: a diffusion transformer trained on masked images (Zheng et al. 2023, arXiv:2306.09305)."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
