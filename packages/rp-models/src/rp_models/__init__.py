"""Networks, checkpoints, data sets, training and sampling for adversarially robust image classification.

Everything is imported on first use: `import rp_models` costs milliseconds and does not import torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
