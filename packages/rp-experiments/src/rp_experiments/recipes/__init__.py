"""Named settings of every experiment; importing them does not import torch."""
