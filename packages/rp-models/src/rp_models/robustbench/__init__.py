"""RobustBench's model zoo by name: what it says of each entry, its files, and its ImageNet images.

Source: Croce et al. 2021, arXiv:2010.09670.
"""
