"""Experiments: frozen settings in, a resumable run folder with its results out.

Importing this does not import torch.
"""
