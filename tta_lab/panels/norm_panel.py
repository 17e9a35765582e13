"""The panel of the seventh notebook: a source, a setting, a method and the size of the batch; error and classes beside source and BN-1.

A run is ``norm_study.one_run``, its numbers ``norm_study.live_numbers``: both work without the panel, and ``to_code()`` says how.
"""
from __future__ import annotations

from ..studies.norms import figures as pictures
from ..studies.norms import study, text
from .picture_panel import PicturePanel

BATCHES = (2, 4, 8, 16, 32, 64)
RATES = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1)


def norm_panel(source: str = "fashion_resnet_bn", setting: str = "labels", method: str = "iabn", batch: int = 16, lr: float = 3e-2,
               seed: int = 0, interactive: bool = True, device: str = "cpu", plan: study.Plan | None = None) -> NormPanel:
    """Source, setting, method, batch and rate as controls; the error so far and the classes in use.

    ``interactive`` shows the controls and runs in a thread. False returns a panel of which every callback has been fired from Python and which has
    run once in the caller's thread; it shows a plain figure. ``plan``: another than the fast one, with a model and images of your own; the first of its
    sources then takes the place of ``source``, and Tent that of a method that it cannot carry out. Raises ValueError for a value that its control does not have.
    """
    if plan is not None:
        source = plan.sources[0]
        method = method if study.kind_of(source) == "BN" or method not in study.ONLY_BN else "tent"
    panel = NormPanel({"source": source, "setting": setting, "method": method, "batch": batch, "lr": lr}, seed, interactive, device, plan)
    if not interactive:
        panel.fire()
    return panel


class NormPanel(PicturePanel):
    """What ``norm_panel`` makes. ``trace`` is the last run, ``beside`` source and BN-1 on the same stream, ``result`` its numbers."""

    def __init__(self, first: dict, seed: int, interactive: bool, device: str, plan: study.Plan | None = None):
        import ipywidgets as W

        self.seed, self.device, self.plan = seed, device, plan
        options = {"source": [(name, name) for name in (study.SOURCES if plan is None else plan.sources)], "setting": [(words, name) for name, words in study.SETTINGS.items()],
                   "method": [(words, name) for name, words in study.METHODS.items()],
                   "batch": [(str(b), b) for b in sorted({*BATCHES, int(first["batch"])})],
                   "lr": [(f"{r:g}", r) for r in sorted({*RATES, float(first["lr"])})]}
        for name, values in options.items():
            if first[name] not in [value for _, value in values]:
                raise ValueError(f"{name} must be one of {', '.join(str(v) for _, v in values)}, not {first[name]!r}")
        says = {"source": ("source", "which network; bn, gn and ln are batch, group and layer norm"), "setting": ("stream", "which images come when"),
                "method": ("method", "what adapts"), "batch": ("batch size", "images of a batch; single images come one by one whatever it says"),
                "lr": ("learning rate", "of Tent, SAR and DeYO, by SGD; the others have their own or none")}
        controls = {name: (W.SelectionSlider if name in ("batch", "lr") else W.Dropdown)(
            options=values, value=first[name], description=says[name][0], tooltip=says[name][1],
            **({"continuous_update": False} if name in ("batch", "lr") else {})) for name, values in options.items()}
        super().__init__(controls, interactive, "Run this method on the stream, beside source and BN-1")
        self._say("Nothing has run yet: choose, and press Run.")

    def in_words(self, c: dict | None = None) -> str:
        """What the controls stand for, or the values of a run."""
        c = c or self.chosen
        size = "1 image" if c["setting"] == "single" else f"{c['batch']} images"
        divided = f" / {study.SINGLE_RATE}" if c["setting"] == "single" else ""
        rate = f", SGD at rate {c['lr']:g}{divided}" if c["method"] in study.LEARN else ""
        return f"{study.METHODS[c['method']]} on {c['source']}, {study.SETTINGS[c['setting']]}, batches of {size}{rate}."

    def to_code(self) -> str:
        """The lines that make the run shown without the panel; before the first run, the one that is chosen."""
        c = self.shown
        made = "" if self.plan is None else f"plan = norm_study.Plan({self.plan.settings()})\n"
        more = "" if self.plan is None else ", plan=plan"
        return ("from tta_lab.studies.norms import study as norm_study\nfrom tta_lab.experiments.runner import row\n\n"
                f"{made}trace = norm_study.one_run({c['source']!r}, {c['setting']!r}, {c['method']!r}, batch={c['batch']}, lr={c['lr']:g}, "
                f"seed={self.seed}{more})\n"
                "row(trace)[\"error\"]")

    def _refused(self) -> str:
        c = self.chosen
        if c["method"] in study.ONLY_BN and study.kind_of(c["source"]) != "BN":
            return (f"{study.METHODS[c['method']]} sets the statistics of batch-norm layers, and {c['source']} has none: that is the point of other "
                    "norms. Choose another method or source.")
        return ""

    def _running(self, c):
        return f"Running {study.METHODS[c['method']]}"

    def stream_of(self, c):
        return c["source"], c["setting"], c["batch"]

    def _references(self, stream, stop):
        return study.beside_run(*stream, seed=self.seed, stop=stop, device=self.device, plan=self.plan)

    def _one(self, c, each):
        return study.one_run(c["source"], c["setting"], c["method"], c["batch"], c["lr"], self.seed, self._stop.is_set, each, self.device,
                             self.plan)

    def _numbers(self, trace, beside):
        return study.live_numbers(trace, beside)

    def _say_live(self, c):
        return text.say_live(self.result, c["source"], c["setting"], c["method"])

    def _figure(self, numbers):
        return pictures.plot_live(numbers)

    def _alt(self, numbers) -> str:
        if numbers is None:
            return "Nothing has run yet."
        errors = ", ".join(f"{name} {value:.1f} per cent" for name, value in numbers["error"].items())
        return f"Error so far: {errors}. Classes predicted among the last images: {numbers['over']['predicted'][-1]:.1f}, true: " \
               f"{numbers['over']['true'][-1]:.1f}."
