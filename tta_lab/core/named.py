"""Arguments that are a recipe or a network, or the text that names one."""
from __future__ import annotations

import os

from torch import nn

from .arguments import WrongKind, named, shown
from .parts import Method, Part


def recipe_of(value: Method | str, name: str = "recipe") -> Method:
    """A method, or the name of one (`make`). Raises WrongKind for anything else."""
    if isinstance(value, str):
        return named("recipe", value)
    if isinstance(value, type) and issubclass(value, Method):
        raise WrongKind(f"{name} must be a method such as make('tent') or {value.__name__}(), not "
                        f"the class {value.__name__} itself")
    if not isinstance(value, Method):
        what = (f"the part {value!r}, which is only a piece of one"
                if isinstance(value, Part) else shown(value))
        raise WrongKind(f"{name} must be a method such as make('tent'), or its name, not {what}")
    return value


def model_of(value: nn.Module | str, name: str = "model") -> nn.Module:
    """A network (any ``nn.Module``), or the text that names one (`models.names.open_model`).
    Raises WrongKind for anything else."""
    if isinstance(value, str):
        return named("model", value)
    if isinstance(value, type):
        raise WrongKind(f"{name} must be a network, not its class {value.__name__}: make one, "
                        f"{value.__name__}(...)")
    if not isinstance(value, nn.Module):
        hint = (": a path is written as a text, 'checkpoint:PATH'" if isinstance(
            value, os.PathLike) else "")
        raise WrongKind(f"{name} must be a network (nn.Module), or a text such as "
                        f"'fashion_resnet_bn' or 'torchvision:resnet18', "
                        f"not {shown(value)}{hint}")
    return value
