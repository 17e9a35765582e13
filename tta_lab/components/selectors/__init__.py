"""Sample selectors: one file each, found by themselves. Any selector composes with any method that
has a loss."""
from ...core.own_parts import Listing
from ...core.parts import Selector
from ...core.registry import find_parts
from .confidence_rise import ConfidenceRise
from .confidence_threshold import ConfidenceThreshold
from .diverse_certain import DiverseCertain
from .entropy_threshold import EntropyThreshold
from .entropy_weight import EntropyWeight
from .non_redundant import NonRedundant
from .plpd_filter import PLPDFilter
from .random_keep import RandomKeep

FORMERLY = {  # name of before -> name now
    "certain_weight": "entropy_weight",
    "confident": "confidence_threshold",
    "destroyed_object": "plpd_filter",
    "low_entropy": "entropy_threshold",
}
SELECTORS = Listing(find_parts(__name__, __path__, "Selector"), Selector)
__all__ = [
    "SELECTORS", "EntropyWeight", "ConfidenceRise", "ConfidenceThreshold", "PLPDFilter",
    "DiverseCertain", "EntropyThreshold", "NonRedundant", "RandomKeep"
]
