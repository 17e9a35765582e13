"""The panel of the eighth notebook: the rate of Tent and what holds it back; error over the rounds
and distance from the source.

A run is ``lifelong_study.one_run``, its numbers ``lifelong_study.live_numbers``: both work without
the panel, and ``to_code()`` says how.
"""
from __future__ import annotations

from ..studies.lifelong import figures as pictures
from ..studies.lifelong import study
from .controls import dropdown, slider, steps
from .picture_panel import PicturePanel

RATES = (1.0, 3.0, 10.0, 20.0, 40.0, 80.0)


def lifelong_panel(rate: float = 40.0, anchor: str = "nothing", stream: str = "same",
                   rounds: int = 3, seed: int = 0, interactive: bool = True,
                   device: str = "cpu") -> LifelongPanel:
    """Rate, anchor, stream and rounds as controls; the error so far beside source and BN-1, and
    how far the weights have gone.

    ``interactive`` shows the controls and runs in a thread. False returns a panel of which every
    callback has been called from Python and which has run once in the caller's thread; it shows a
    plain figure. Raises ValueError for a value that its control does not have.
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
                         "Run Tent over the rounds, beside source and BN-1").opened()


class LifelongPanel(PicturePanel):
    """What ``lifelong_panel`` makes. ``trace`` is the last run, ``beside`` source and BN-1 on the
    same stream, ``result`` its numbers."""

    study = study

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
        return ("from tta_lab.studies.lifelong import study as lifelong_study\n"
                "from tta_lab.experiments.runner import row\n\n"
                f"trace = lifelong_study.one_run({c['rate']:g}, {c['anchor']!r}, {c['stream']!r}, "
                f"rounds={c['rounds']}, seed={self.seed})\n"
                "row(trace)[\"error\"], trace.meta[\"clean\"]")

    def stream_of(self, c):
        return c["stream"], c["rounds"]

    def _running(self, c):
        return f"Running {self.describe(c).partition(';')[0]}"

    def _one(self, c, each):
        return study.one_run(c["rate"], c["anchor"], c["stream"], c["rounds"], self.seed,
                             stop=self._stop.is_set, each=each, device=self.device)

    def _say_live(self, c):
        return study.say_live(self.result, c["rate"], c["anchor"])

    def _figure(self, numbers):
        return pictures.plot_lifelong_live(numbers)

    def _alt(self, numbers) -> str:
        far = 100 * numbers["distance"]["distance"][-1]
        return (f"The weights are {far:.0f} per cent of their length away from the source's; they "
                f"went back {len(numbers['marks'])} times.")
