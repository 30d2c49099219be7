"""Experiments: frozen settings in, a resumable run folder with one schema of results out.

Everything is imported on first use: `import rp_experiments` costs milliseconds and does not import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
