"""TTA Lab: test-time adaptation as a composition of small parts, with the wisdom-of-crowds filter at its centre.

Public names are imported on first use, so that ``python -m tta_lab`` can set up an environment before torch is there.
"""
import importlib
import sys
import types

__version__ = "0.1.0"

_HOME = {  # public name -> module that defines it
    "Adapter": "adapter", "Trace": "trace", "knobs": "knobs", "make": "methods", "catalogue": "methods",
    "ConfidenceRise": "selectors", "LowEntropy": "selectors", "RandomKeep": "selectors",
    "run": "runner", "runs": "runner", "compare": "runner", "spread": "runner", "forgetting": "runner",
    "Stream": "streams", "corrupt": "corruptions", "load": "datasets", "load_model": "models", "with_input_card": "models",
    **dict.fromkeys(("Shuffled", "Recorded", "SortedByClass", "Dirichlet", "LabelShift", "ClassImbalance"), "orders"),
    **dict.fromkeys(("reset_each_shift", "batch_episodic", "continual", "gradual", "mixed_domains", "correlated", "mixed_correlated",
                     "label_shift", "class_imbalance", "batch_of_one", "recurring", "cyclic", "alternating", "long_term", "closed_set",
                     "open_set", "natural", "recorded"), "protocols"),
    "continually_changing": "ccc", "published": "published", "check_up": "doctor", "doctor": "doctor",
    "load_cifar": "cifar_networks", "wrap": "image_files",
    "from_torchvision": "models", "from_timm": "models", "with_classes": "models",
    "CollapseDetector": "collapse", "watch": "collapse", "Guard": "guard", "guarded": "guard", "safety_report": "safety", "Choice": "explore",
}
__all__ = sorted(_HOME) + ["__version__"]


class _Package(types.ModuleType):
    """Lets a public name win over a submodule of the same name (``knobs``), which an import would bind here.

    So that ``import tta_lab.knobs as k`` works as well, which asks for the attribute of the package, the function has the names of its module.
    """

    def __setattr__(self, name, value):
        if name in _HOME and isinstance(value, types.ModuleType):
            value = getattr(value, name)
            value.__dict__ = sys.modules[f"{__name__}.{name}"].__dict__
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'tta_lab' has no attribute {name!r}; it has: {', '.join(__all__)}")
    module = importlib.import_module("." + _HOME[name], __name__)
    return globals().setdefault(name, getattr(module, name))  # of a module of the same name it has been set by now


def __dir__():
    return sorted(set(globals()) | set(__all__))
