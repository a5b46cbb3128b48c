"""The version of the package, which the files it writes record."""

__version__ = "0.1.0"
