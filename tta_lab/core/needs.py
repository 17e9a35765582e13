"""What a recipe may need of a model and of the source domain, and whether it is there."""
from __future__ import annotations

from torch import nn

from .norm_layers import BATCH_NORM
from .parts import Method, NeedsError
from .source_model import SourceModel

GIVEN = {  # name -> what it is, for messages
    "fisher": "the Fisher information of its tuned parameters on unlabelled source images",
    "prototypes": "the mean source features of every class, from labelled source images",
    "moments": "mean and covariance of source features, from unlabelled source images",
    "replay": "labelled source images to replay",
    "neighbours": "the features of labelled source images",
    "posterior": "mean and variance of its tuned parameters, from training on labelled source images",
}


def check_needs(recipe: Method, needs: frozenset, model: nn.Module, given: dict) -> None:
    """Raise NeedsError when the model or the caller lacks what the recipe declares."""
    name = type(recipe).__name__
    if "batch_norm" in needs and not any(isinstance(m, BATCH_NORM) for m in model.modules()):
        raise NeedsError(f"{name} needs batch-norm layers, whose statistics it sets anew, but {type(model).__name__} has no batch-norm layer; "
                         "choose a model with BatchNorm, or another method such as tent")
    if "features" in needs and not (hasattr(model, "features") and isinstance(getattr(model, "head", None), nn.Module)):
        finder = ("they were looked for in front of its linear layers, none of which makes the logits of its input; give the network inside both"
                  if isinstance(model, SourceModel) else "tta_lab.with_input_card(net, ...) finds them in most classifiers, or wrap it")
        raise NeedsError(f"{name} needs a model with 'features' and 'head'; {type(model).__name__} has not: {finder}, so that logits = "
                         "head(features(x))")
    for missing in sorted(needs & GIVEN.keys() - given.keys()):
        raise NeedsError(f"{name} needs {GIVEN[missing]} from the source domain; make it once with "
                         f"given = tta_lab.prepare(model, recipe, images, labels) and hand it over: Adapter(..., given=given)")
