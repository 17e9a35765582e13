"""TTA Lab: test-time adaptation as a composition of small parts, with the wisdom-of-crowds filter
at its centre.

Public names are imported on first use, so that ``python -m tta_lab`` can set up an environment
before torch is there.
"""
import importlib

__version__ = "0.1.0"

_HOME = {  # public name -> module that defines it
    "Adapter": "core.adapter",
    "Trace": "core.trace",
    **dict.fromkeys(("knob", "knobs"), "core.knobs"),
    **dict.fromkeys(("part", "use"), "core.own_parts"),
    "check_part": "experiments.contract",
    "make": "methods",
    "prepare": "components.source.prepare",
    "warm_up": "components.source.warm_up",
    **dict.fromkeys(("ConfidenceRise", "EntropyThreshold", "RandomKeep"), "components.selectors"),
    "CollapseDetector": "components.controllers.collapse_detector",
    **dict.fromkeys(("Guard", "guarded"), "components.controllers.guard"),
    "load": "data.load",
    "wrap": "data.wrapped",
    "corrupt": "data.corruptions",
    "load_model": "models.embedded",
    **dict.fromkeys(("with_input_card", "with_classes"), "models.wrapping"),
    **dict.fromkeys(("from_torchvision", "from_timm"), "models.libraries"),
    "load_cifar": "models.cifar_networks",
    **dict.fromkeys(("check_up", "doctor"), "models.doctor"),
    "Stream": "streams.stream",
    **dict.fromkeys(
        ("Shuffled", "Recorded", "SortedByClass", "Dirichlet", "LabelShift", "ClassImbalance"),
        "streams.orders",
    ),
    **dict.fromkeys(
        ("reset_each_shift", "batch_episodic", "continual", "gradual", "mixed_domains",
         "correlated", "mixed_correlated", "label_shift", "class_imbalance", "batch_of_one",
         "recurring", "cyclic", "alternating", "long_term", "closed_set", "open_set", "natural",
         "recorded"),
        "streams.protocols",
    ),
    "continually_changing": "streams.ccc",
    "detect": "analysis.collapse",
    **dict.fromkeys(("run", "runs", "compare", "spread", "forgetting"), "experiments.runner"),
    "Experiment": "experiments.experiment",
    "catalogue": "experiments.catalogue",
    "published": "experiments.published_numbers",
    "safety_report": "safety.report",
}
__all__ = sorted(_HOME) + ["__version__"]


def __getattr__(name):
    if name not in _HOME:
        raise AttributeError(f"module 'tta_lab' has no attribute {name!r}; it has: "
                             f"{', '.join(__all__)}")
    module = importlib.import_module("." + _HOME[name], __name__)
    return globals().setdefault(name, getattr(module, name))


def __dir__():
    return sorted(set(globals()) | set(__all__))
