"""What a training step minimises: TRADES in two forms, PGD-AT, IKL, ADR on top of any of them, and plain training.

Every objective has one interface (`Objective`): a batch in; loss, features and the figures to log out. Everything is
imported on first use.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
