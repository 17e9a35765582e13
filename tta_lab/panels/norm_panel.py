"""The panel of the seventh notebook: a source, a setting, a method and the size of the batch;
error and classes beside source and BN-1.

A run is ``norms.study.one_run``, its numbers ``norms.study.live_numbers``: both work without the
panel, and ``to_code()`` says how.
"""
from __future__ import annotations

from ..studies.norms import figures as pictures
from ..studies.norms import study, text
from .controls import dropdown, steps
from .picture_panel import PicturePanel

BATCHES = (2, 4, 8, 16, 32, 64)
RATES = (1e-3, 1e-2, 3e-2, 1e-1, 3e-1)


def norm_panel(source: str = "fashion_resnet_bn", setting: str = "labels", method: str = "iabn",
               batch: int = 16, lr: float = 3e-2, seed: int = 0, interactive: bool = True,
               device: str = "cpu", plan: study.Plan | None = None) -> NormPanel:
    """Source, setting, method, batch and rate as controls; the error so far and the classes in use.

    ``interactive`` shows the controls and runs in a thread. False returns a panel of which every
    callback has been called from Python and which has run once in the caller's thread; it shows a
    plain figure. ``plan``: another than the fast one, with a model and images of your own; the
    first of its sources then takes the place of ``source``, and Tent that of a method that it
    cannot carry out. Raises ValueError for a value that its control does not have.
    """
    sources = list(study.SOURCES if plan is None else plan.sources)
    if plan is not None:
        source = sources[0]
        method = method if study.kind_of(source) == "BN" or method not in study.ONLY_BN else "tent"
    controls = {
        "source": dropdown("source", sources, source, "source",
                           "which network; bn, gn and ln are batch, group and layer norm"),
        "setting": dropdown("setting", study.SETTINGS, setting, "stream", "which images come when"),
        "method": dropdown("method", study.METHODS, method, "method", "what adapts"),
        "batch": steps(BATCHES, int(batch), "batch size",
                       "images of a batch; single images come one by one whatever it says", "{}"),
        "lr": steps(RATES, float(lr), "learning rate",
                    "of Tent, SAR and DeYO, by SGD; the others have their own or none", "{:g}")}
    return NormPanel(controls, seed, interactive, device,
                     "Run this method on the stream, beside source and BN-1", plan).opened()


class NormPanel(PicturePanel):
    """What ``norm_panel`` makes. ``trace`` is the last run, ``beside`` source and BN-1 on the same
    stream, ``result`` its numbers."""

    study = study
    alias = "norm_study"

    def describe(self, c: dict | None = None) -> str:
        """What the controls stand for, or the values of a run."""
        c = c or self.chosen
        single = c["setting"] == "single"
        size = "1 image" if single else f"{c['batch']} images"
        divided = f" / {study.SINGLE_RATE}" if single else ""
        rate = f", SGD at rate {c['lr']:g}{divided}" if c["method"] in study.LEARN else ""
        return (f"{study.METHODS[c['method']]} on {c['source']}, {study.SETTINGS[c['setting']]}, "
                f"batches of {size}{rate}.")

    def to_code(self) -> str:
        """The lines that make the run shown without the panel; before the first run, the one that
        is chosen."""
        c = self.shown
        return self._code(f"{c['source']!r}, {c['setting']!r}, {c['method']!r}, "
                          f"batch={c['batch']}, lr={c['lr']:g}", 'row(trace)["error"]')

    def _refused(self) -> str:
        c = self.chosen
        if c["method"] in study.ONLY_BN and study.kind_of(c["source"]) != "BN":
            return (f"{study.METHODS[c['method']]} sets the statistics of batch-norm layers, and "
                    f"{c['source']} has none: that is the point of other norms. Choose another "
                    "method or source.")
        return ""

    def _running(self, c):
        return f"Running {study.METHODS[c['method']]}"

    def stream_of(self, c):
        return c["source"], c["setting"], c["batch"]

    def _one(self, c, each):
        return study.one_run(c["source"], c["setting"], c["method"], c["batch"], c["lr"], self.seed,
                             self._stop.is_set, each, self.device, self.plan)

    def _say_live(self, c):
        return text.say_live(self.result, c["source"], c["setting"], c["method"])

    def _figure(self, numbers):
        return pictures.plot_live(numbers)

    def _alt(self, numbers) -> str:
        over = numbers["over"]
        return (f"Classes predicted among the last images: {over['predicted'][-1]:.1f}, true: "
                f"{over['true'][-1]:.1f}.")
