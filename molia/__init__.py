"""Molia: files that outlive any one machine."""

__version__ = "0.1.0"
"""The version of the package, as in pyproject.toml; importlib.metadata takes 30 ms to tell it."""
