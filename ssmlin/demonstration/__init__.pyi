from ssmlin.demonstration._datasets import DATASETS, load_macro, load_sunspots
from ssmlin.demonstration._demo import run_demo

__all__ = [
    "DATASETS",
    "load_macro",
    "load_sunspots",
    "run_demo",
]
