"""The panel of the eighth notebook: the rate of Tent and what holds it back; error over the rounds and distance from the source.

A run is ``lifelong_study.one_run``, its numbers ``lifelong_study.live_numbers``: both work without the panel, and ``to_code()`` says how.
"""
from __future__ import annotations

from ..studies.lifelong import figures as pictures
from ..studies.lifelong import study, text
from ..studies.own import source_images_of
from .picture_panel import PicturePanel

RATES = (1.0, 3.0, 10.0, 20.0, 40.0, 80.0)


def lifelong_panel(rate: float = 40.0, anchor: str = "nothing", stream: str = "same", rounds: int = 3, seed: int = 0, interactive: bool = True,
                   device: str = "cpu", plan: study.Plan | None = None) -> LifelongPanel:
    """Rate, anchor, stream and rounds as controls; the error so far beside source and BN-1, and how far the weights have gone.

    ``interactive`` shows the controls and runs in a thread. False returns a panel of which every callback has been fired from Python and which has
    run once in the caller's thread; it shows a plain figure. ``plan``: another than the fast one, with model and images of your own. Raises ValueError for a value that its control does not have.
    """
    panel = LifelongPanel({"rate": rate, "anchor": anchor, "stream": stream, "rounds": rounds}, seed, interactive, device, plan)
    if not interactive:
        panel.fire()
    return panel


class LifelongPanel(PicturePanel):
    """What ``lifelong_panel`` makes. ``trace`` is the last run, ``beside`` source and BN-1 on the same stream, ``result`` its numbers."""

    def __init__(self, first: dict, seed: int, interactive: bool, device: str, plan: study.Plan | None = None):
        import ipywidgets as W

        self.seed, self.device, self.plan = seed, device, plan
        for name, known in (("anchor", study.ANCHORS), ("stream", study.STREAMS)):
            if first[name] not in known:
                raise ValueError(f"{name} must be one of {', '.join(known)}, not {first[name]!r}")
        if not first["rate"] > 0 or first["rounds"] < 2:
            raise ValueError(f"rate must be positive and rounds at least 2, got {first['rate']} and {first['rounds']}")
        controls = {
            "rate": W.SelectionSlider(options=[(f"x {r:g}", r) for r in sorted({*RATES, float(first["rate"])})], value=float(first["rate"]),
                                      description="rate of Tent", continuous_update=False, tooltip="multiple of the published rate"),
            "anchor": W.Dropdown(options=[(words, name) for name, words in study.ANCHORS.items()], value=first["anchor"], description="held by",
                                 tooltip="what keeps the weights from getting lost"),
            "stream": W.Dropdown(options=[(words, name) for name, words in study.STREAMS.items()], value=first["stream"], description="stream",
                                 tooltip="what the second and later visits of a shift show"),
            "rounds": W.IntSlider(value=int(first["rounds"]), min=2, max=max(6, int(first["rounds"])), description="rounds", continuous_update=False,
                                  tooltip="visits of each shift; the streams with other images show two"),
        }
        super().__init__(controls, interactive, "Run Tent over the rounds, beside source and BN-1")
        self._say("Nothing has run yet: choose, and press Run.")

    def in_words(self, c: dict | None = None) -> str:
        """What the controls stand for, or the values of a run."""
        c = c or self.chosen
        rounds = c["rounds"] if c["stream"] == "same" else 2
        return f"Tent at {c['rate']:g} times its rate, held by {study.ANCHORS[c['anchor']]}; {rounds} rounds, {study.STREAMS[c['stream']]}."

    def to_code(self) -> str:
        """The lines that make the run shown without the panel; before the first run, the one that is chosen."""
        c = self.shown
        made = "" if self.plan is None else f"plan = lifelong_study.Plan({self.plan.settings()})\n"
        more = "" if self.plan is None else ", plan=plan"
        return ("from tta_lab.studies.lifelong import study as lifelong_study\nfrom tta_lab.experiments.runner import row\n\n"
                f"{made}trace = lifelong_study.one_run({c['rate']:g}, {c['anchor']!r}, {c['stream']!r}, rounds={c['rounds']}, seed={self.seed}{more})\n"
                "row(trace)[\"error\"], trace.meta.get(\"clean\")")

    def _refused(self) -> str:
        unknown = self.plan is not None and source_images_of(self.plan.model) is None
        return study.NO_SOURCE_IMAGES if unknown and self.chosen["anchor"] == "Fisher" else ""

    def stream_of(self, c):
        return c["stream"], c["rounds"]

    def _running(self, c):
        return f"Running {self.in_words(c).partition(';')[0]}"

    def _references(self, stream, stop):
        return study.beside_run(*stream, seed=self.seed, stop=stop, device=self.device, plan=self.plan)

    def _one(self, c, each):
        return study.one_run(c["rate"], c["anchor"], c["stream"], c["rounds"], self.seed, stop=self._stop.is_set, each=each, device=self.device,
                             plan=self.plan)

    def _numbers(self, trace, beside):
        return study.live_numbers(trace, beside)

    def _say_live(self, c):
        return text.say_live(self.result, c["rate"], c["anchor"])

    def _figure(self, numbers):
        return pictures.plot_lifelong_live(numbers)

    def _alt(self, numbers) -> str:
        if numbers is None:
            return "Nothing has run yet."
        errors = ", ".join(f"{name} {value:.1f} per cent" for name, value in numbers["error"].items())
        return (f"Error so far: {errors}. The weights are {100 * numbers['distance']['distance'][-1]:.0f} per cent of their length away from the "
                f"source's; they went back {len(numbers['marks'])} times.")
