"""Alignment targets: frozen networks, above all diffusion models, that say what features should look like."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
