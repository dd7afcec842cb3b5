"""Example data, and the demonstration."""

from ssmlin.demonstration.datasets import DATASETS, load_macro, load_sunspots

__all__ = ["DATASETS", "load_macro", "load_sunspots"]
