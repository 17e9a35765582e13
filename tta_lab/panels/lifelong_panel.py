"""The panel of the eighth notebook: the rate of Tent and what holds it back; error over the rounds
and distance from the source.

A run is ``lifelong.study.one_run``, its numbers ``lifelong.study.live_numbers``: both work without
the panel, and ``to_code()`` says how.
"""
from __future__ import annotations

from ..studies.lifelong import figures as pictures
from ..studies.lifelong import study, text
from ..studies.own import source_images_of
from .controls import dropdown, slider, steps
from .picture_panel import PicturePanel

RATES = (1.0, 3.0, 10.0, 20.0, 40.0, 80.0)


def lifelong_panel(rate: float = 40.0, anchor: str = "nothing", stream: str = "same",
                   rounds: int = 3, seed: int = 0, interactive: bool = True,
                   device: str = "cpu", plan: study.Plan | None = None) -> LifelongPanel:
    """Rate, anchor, stream and rounds as controls; the error so far beside source and BN-1, and
    how far the weights have gone.

    ``interactive`` shows the controls and runs in a thread. False returns a panel of which every
    callback has been called from Python and which has run once in the caller's thread; it shows a
    plain figure. ``plan``: another than the fast one, with a model and images of your own. Raises
    ValueError for a value that its control does not have.
    """
    if not rate > 0 or rounds < 2:
        raise ValueError(f"rate must be positive and rounds at least 2, got {rate} and {rounds}")
    controls = {
        "rate": steps(RATES, float(rate), "rate of Tent", "multiple of the published rate",
                      "x {:g}"),
        "anchor": dropdown("anchor", study.ANCHORS, anchor, "held by",
                           "what keeps the weights from getting lost"),
        "stream": dropdown("stream", study.STREAMS, stream, "stream",
                           "what the second and later visits of a shift show"),
        "rounds": slider(int(rounds), 2, max(6, int(rounds)), "rounds",
                         "visits of each shift; the streams with other images show two")}
    return LifelongPanel(controls, seed, interactive, device,
                         "Run Tent over the rounds, beside source and BN-1", plan).opened()


class LifelongPanel(PicturePanel):
    """What ``lifelong_panel`` makes. ``trace`` is the last run, ``beside`` source and BN-1 on the
    same stream, ``result`` its numbers."""

    study = study
    alias = "lifelong_study"

    def describe(self, c: dict | None = None) -> str:
        """What the controls stand for, or the values of a run."""
        c = c or self.chosen
        rounds = c["rounds"] if c["stream"] == "same" else 2
        return (f"Tent at {c['rate']:g} times its rate, held by {study.ANCHORS[c['anchor']]}; "
                f"{rounds} rounds, {study.STREAMS[c['stream']]}.")

    def to_code(self) -> str:
        """The lines that make the run shown without the panel; before the first run, the one that
        is chosen."""
        c = self.shown
        return self._code(f"{c['rate']:g}, {c['anchor']!r}, {c['stream']!r}, rounds={c['rounds']}",
                          'row(trace)["error"], trace.meta.get("clean")')

    def _refused(self) -> str:
        unknown = self.plan is not None and source_images_of(self.plan.model) is None
        return study.NO_SOURCE_IMAGES if unknown and self.chosen["anchor"] == "Fisher" else ""

    def stream_of(self, c):
        return c["stream"], c["rounds"]

    def _running(self, c):
        return f"Running {self.describe(c).partition(';')[0]}"

    def _one(self, c, each):
        return study.one_run(c["rate"], c["anchor"], c["stream"], c["rounds"], self.seed,
                             stop=self._stop.is_set, each=each, device=self.device,
                             plan=self.plan)

    def _say_live(self, c):
        return text.say_live(self.result, c["rate"], c["anchor"])

    def _figure(self, numbers):
        return pictures.plot_lifelong_live(numbers)

    def _alt(self, numbers) -> str:
        far = 100 * numbers["distance"]["distance"][-1]
        return (f"The weights are {far:.0f} per cent of their length away from the source's; they "
                f"went back {len(numbers['marks'])} times.")
