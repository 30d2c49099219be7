"""Adversarial purification: MAE-Pure, MaskDiT-Pure, robust fine-tuning, baselines, and attention matrix variation.

Everything is imported on first use: `import rp_purify` costs milliseconds and does not import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
