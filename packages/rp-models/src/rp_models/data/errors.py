"""The error of everything that reads data sets."""


class DataError(ValueError):
    """A data set's files are missing, damaged, or not what its description says."""
