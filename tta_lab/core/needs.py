"""What a recipe may need of a model, and whether it is there."""
from __future__ import annotations

from torch import nn

from .norm_layers import BATCH_NORM
from .parts import Method, NeedsError, parts_of
from .source_model import SourceModel

MODEL_NEEDS = {"batch_norm", "features", "source_logits"}


def check_needs(recipe: Method, model: nn.Module) -> None:
    """Raise NeedsError when the model lacks what the recipe declares."""
    name = type(recipe).__name__
    needs = frozenset().union(*(part.needs for part in parts_of(recipe)))
    if unknown := sorted(needs - MODEL_NEEDS):
        raise NeedsError(f"{name} declares that it needs {unknown[0]!r} of the model, which is "
                         f"none of {', '.join(sorted(MODEL_NEEDS))}; what is "
                         "taken from the source domain is declared by source_info = (maker,)")
    if "batch_norm" in needs and not any(isinstance(m, BATCH_NORM) for m in model.modules()):
        raise NeedsError(f"{name} needs batch-norm layers, whose statistics it sets anew, but "
                         f"{type(model).__name__} has no batch-norm layer; "
                         "choose a model with BatchNorm, or another method such as tent")
    if "features" in needs and not (
        hasattr(model, "features") and isinstance(getattr(model, "head", None), nn.Module)
    ):
        finder = ("they were looked for in front of its linear layers, none of which makes the "
                  "logits of its input; give the network inside both"
                  if isinstance(model, SourceModel) else "tta_lab.with_input_card(net, ...) finds "
                                                         "them in most classifiers, or wrap it")
        raise NeedsError(f"{name} needs a model with 'features' and 'head'; {type(model).__name__} "
                         f"has not: {finder}, so that logits = "
                         "head(features(x))")
