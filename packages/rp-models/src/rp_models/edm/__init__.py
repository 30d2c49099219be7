"""EDM: U-Nets, preconditioning, losses, augmentation and sampler of Karras et al. 2022, arXiv:2206.00364."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
