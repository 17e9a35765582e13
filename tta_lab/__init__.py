"""TTA Lab: test-time adaptation as a composition of small parts, with the wisdom-of-crowds filter at its centre.

Public names are imported on first use, so that ``python -m tta_lab`` can set up an environment before torch is there.
"""
import importlib

__version__ = "0.1.0"

_HOME = {  # public name -> module that defines it
    **dict.fromkeys(("Adapter",), "core.adapter"),
    **dict.fromkeys(("Trace",), "core.trace"),
    **dict.fromkeys(("knobs",), "core.knobs"),
    **dict.fromkeys(("make", "catalogue"), "methods"),
    **dict.fromkeys(("ConfidenceRise", "LowEntropy", "RandomKeep"), "components.selectors"),
    **dict.fromkeys(("CollapseDetector",), "components.controllers.collapse_detector"),
    **dict.fromkeys(("Guard", "guarded"), "components.controllers.guard"),
    **dict.fromkeys(("load",), "data.image_set"),
    **dict.fromkeys(("wrap",), "data.folders"),
    **dict.fromkeys(("corrupt",), "data.corruptions"),
    **dict.fromkeys(
        ("load_model", "with_input_card", "from_torchvision", "from_timm", "with_classes"), "models.wrapping"
    ),
    **dict.fromkeys(("load_cifar",), "models.cifar_networks"),
    **dict.fromkeys(("check_up", "doctor"), "models.doctor"),
    **dict.fromkeys(("Stream",), "streams.stream"),
    **dict.fromkeys(
        ("Shuffled", "Recorded", "SortedByClass", "Dirichlet", "LabelShift", "ClassImbalance"),
        "streams.orders",
    ),
    **dict.fromkeys(
        ("reset_each_shift", "batch_episodic", "continual", "gradual", "mixed_domains", "correlated",
         "mixed_correlated", "label_shift", "class_imbalance", "batch_of_one", "recurring", "cyclic",
         "alternating", "long_term", "closed_set", "open_set", "natural", "recorded"),
        "streams.protocols",
    ),
    **dict.fromkeys(("continually_changing",), "streams.ccc"),
    **dict.fromkeys(("watch",), "components.controllers.collapse_detector"),
    **dict.fromkeys(("run", "runs", "compare", "spread", "forgetting"), "experiments.runner"),
    **dict.fromkeys(("Choice",), "experiments.experiment"),
    **dict.fromkeys(("published",), "experiments.published_numbers"),
    **dict.fromkeys(("safety_report",), "safety.report"),
}
__all__ = sorted(_HOME) + ["__version__"]


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'tta_lab' has no attribute {name!r}; it has: {', '.join(__all__)}")
    module = importlib.import_module("." + _HOME[name], __name__)
    return globals().setdefault(name, getattr(module, name))


def __dir__():
    return sorted(set(globals()) | set(__all__))
