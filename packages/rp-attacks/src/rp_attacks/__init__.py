"""Adversarial attacks, and an evaluation of robustness that a vanished gradient cannot fool.

Everything is imported on first use: `import rp_attacks` costs milliseconds and does not import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
