"""Sample selectors: one file each, found by themselves. Any selector composes with any method that
has a loss."""
from ...core.registry import find_parts
from .certain_weight import CertainWeight
from .confidence_rise import ConfidenceRise
from .confident import Confident
from .destroyed_object import DestroyedObject
from .diverse_certain import DiverseCertain
from .low_entropy import LowEntropy
from .non_redundant import NonRedundant
from .random_keep import RandomKeep

SELECTORS = find_parts(__name__, __path__, "Selector")
__all__ = [
    "SELECTORS", "CertainWeight", "ConfidenceRise", "Confident", "DestroyedObject",
    "DiverseCertain", "LowEntropy", "NonRedundant", "RandomKeep"
]
