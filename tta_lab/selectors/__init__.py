"""Sample selectors: one file each, found by themselves. Any selector composes with any method that has a loss."""
from ..registry import find_parts
from .confidence_rise import ConfidenceRise
from .low_entropy import LowEntropy
from .random_keep import RandomKeep

SELECTORS = find_parts(__name__, __path__, "Selector")
__all__ = ["SELECTORS", "ConfidenceRise", "LowEntropy", "RandomKeep"]
