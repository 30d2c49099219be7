"""Analysis of representations: similarity, geometry, sparse autoencoders, dimension, frequency, and figures.

Names are loaded on first use, so that importing the package does not import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
