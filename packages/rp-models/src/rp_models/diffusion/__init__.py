"""Diffusion models: preconditioned denoisers, losses, samplers."""
