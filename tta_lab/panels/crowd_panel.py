"""The panel of the first notebook: a few controls, a button and live figures around a plain
function; whatever it does, that function does without it."""
from __future__ import annotations

import numpy as np

from ..analysis import diagnose
from ..core.knobs import Knob
from ..methods import make
from ..plots import GROUP_LABELS, GROUP_LOOKS, look
from ..studies.crowds import study as crowds
from .controls import control, find, narrow
from .live import empty_figure, live_figure
from .run_panel import NOTHING, StudyPanel

FILTER = "filter: learn where d >= 0"
WIDTH, HEIGHT = 530, 225  # beside the controls


def crowd_panel(plan: crowds.Plan = crowds.FAST, interactive: bool = True,
                device="auto") -> CrowdPanel:
    """Tent with and without the filter and the diversity term, on a stream of this plan (its first
    seed), with controls.

    ``interactive`` shows the controls and runs in a thread when asked to. False returns a panel
    that has run once, in the caller's thread and with every callback called from Python, and that
    shows plain figures.
    """
    return CrowdPanel(plan, interactive, device).opened()


class CrowdPanel(StudyPanel):
    """What ``crowd_panel`` makes; ``settings``, ``trace`` and ``result`` (a dict of numbers)
    belong to the last run."""

    def __init__(self, plan: crowds.Plan, interactive: bool, device):
        import plotly.graph_objects as go

        controls = {k.name: control(k, label) for k, label in _knobs(plan)}
        super().__init__(controls, interactive, "Start a run with these settings", 140, 370)
        self.plan = plan
        self.device = device
        self.result = {}
        self.figures = [live_figure(figure, interactive) for figure in _empty_figures(go)]
        self.error_figure, self.fall_figure, self.rise_figure = self.figures
        self._refresh()
        self._say("Nothing has run yet: press Run.")

    @property
    def settings(self) -> dict:
        """The values of the controls for the last run; {} before it."""
        return self.ran or {}

    def _refresh(self):
        self._tell(f"Settings: {self.describe()}.")

    # --- the work

    def _begin(self):
        previous = diagnose.error_per_round(self.trace) if self.result else None
        super()._begin()
        self.result = {}
        return (previous,)

    def _run(self, previous):
        plan = self.plan
        c = self.ran
        self._draw_start(previous)
        stream = crowds.stream_of(plan, c["unknown_ratio"], c["rounds"], plan.first_seed)
        self.progress.value, self.progress.max = 0, stream.n_images
        trace = crowds.one_run(**c, plan=plan, seed=plan.first_seed, stop=self._stop.is_set,
                               each=self._after_batch, device=self.device)
        self.trace = trace
        if len(trace):
            self.result = self._numbers(trace)
            self._draw(trace)
        self._say(self.finding())

    def _after_batch(self, trace):
        seen = len(trace)
        total = self.progress.max
        rounds = self.ran["rounds"]
        self._count(trace)
        self._say(f"Running: round {int(trace.step('round')[-1]) + 1} of {rounds}, {seen} of "
                  f"{total} images.{self._stopping}")
        if seen * rounds % total == 0:  # a round is complete
            self._draw(trace)

    def _numbers(self, trace) -> dict:
        base = crowds.reference(trace)["error"]
        numbers = {k: v for k, v in crowds.summary(trace).items() if k != "per_round"}
        return numbers | {
            "bn_first": float(base[0]), "bn_last": float(base[-1]), "rounds": len(base),
            "images": len(trace),
            "stopped": self._stop.is_set() and len(trace) < self.progress.max}

    # --- words

    def describe(self, c: dict | None = None) -> str:
        """What the controls say, or the settings of a run."""
        c = c or self.chosen
        terms = ["the filter"] * c["filtered"] + ["the diversity term"] * c["diverse"]
        unknown = (f"{c['unknown_ratio']:g} unknown per known image" if c["unknown_ratio"] else
                   "no unknown images (closed set)")
        return (f"Tent {'with ' + ' and '.join(terms) if terms else 'alone'}, learning rate "
                f"{c['lr']:.2g}, {unknown}, {c['rounds']} rounds")

    def finding(self) -> str:
        """What the last run found."""
        r = self.result
        if not r:
            return NOTHING
        last = round(r["last"] - r["bn_last"], 1)
        beside = (f"{abs(last):.1f} points {'worse' if last > 0 else 'better'} than BN-1" if last
                  else "the same as BN-1")
        done = f"Stopped in round {r['rounds']}" if r["stopped"] else f"Done, {r['rounds']} rounds"
        return (f"{done}. Error in the first round {r['first']:.1f} %, in the last "
                f"{r['last']:.1f} %, which is {beside} on the same images ({r['bn_last']:.1f} %). "
                f"Learned from {100 * r['kept']:.0f} % of the images.")

    # --- figures

    def _draw_start(self, previous):
        last = self.ran["rounds"] - 1
        for figure in self.figures:
            with figure.batch_update():
                for curve in figure.data:
                    curve.x, curve.y = [], []
                if figure is not self.rise_figure:
                    figure.layout.xaxis.update(range=[-0.05 * last, 1.05 * last],
                                               dtick=1 if last <= 10 else None)
                if figure is self.error_figure and previous is not None:
                    figure.data[1].x = previous["round"]
                    figure.data[1].y = previous["error"]

    def _draw(self, trace):
        run = diagnose.error_per_round(trace)
        base = crowds.reference(trace)
        fall = diagnose.rise_and_fall(trace)
        rise = diagnose.rise_histogram(trace)
        with self.error_figure.batch_update():
            curves = self.error_figure.data
            for curve, numbers in ((curves[0], base), (curves[2], run)):
                curve.x, curve.y = numbers["round"], numbers["error"]
            top = max(np.max(curve.y, initial=1.0) for curve in curves)
            self.error_figure.layout.yaxis.range = [0, 1.1 * top]
        with self.fall_figure.batch_update():
            for curve, group in zip(self.fall_figure.data, diagnose.GROUPS, strict=True):
                curve.x = fall["round"]
                curve.y = fall["among_falling"][group]
        with self.rise_figure.batch_update():
            curves = self.rise_figure.data
            layout = self.rise_figure.layout
            for curve, group in zip(curves, diagnose.GROUPS, strict=True):
                share = rise["late"]["share"][group]
                curve.x, curve.y = rise["edges"], np.append(share, share[-1])
            top = max(np.nan_to_num(curve.y).max(initial=0.01) for curve in curves)
            layout.yaxis.range = [0, 1.1 * top]
            layout.title.text = f"Confidence difference, round {fall['round'][-1]}"

    @property
    def widget(self):
        """Everything in one box."""
        return self.bench(self.controls.values(), self._figure_widgets())

    def summary(self):
        return [f"Settings: {self.describe(self.ran)}.", self.message], self.figures


def _knobs(plan: crowds.Plan):
    """(knob, label) of every control; the knob of the learning rate is that of the optimiser step,
    with a narrower range."""
    def knob(name, value, why, low=None, high=None, paper="", unit=""):
        return Knob(name, value, value, low, high, False, None, why, paper, unit)

    step = narrow(find(make("tent", lr=plan.lr), "lr"), 1e-4, 1e-1)
    yield Knob(**{**vars(step), "name": "lr"}), "learning rate"
    ratio = float(min(plan.unknown_ratio, 2) if "open" in plan.settings else 0)
    yield knob("unknown_ratio", ratio, "unknown images for each known one, 0 for the closed set",
               0.0, 2.0, unit="unknown per known image"), "unknown per known"
    yield knob("rounds", plan.rounds, "how often the stream goes over all shifts", 2,
               max(20, plan.rounds), unit="rounds"), "rounds"
    yield knob("filtered", True, "learn only from images whose confidence has not fallen",
               paper="Wisdom of crowds (2308.06879)"), FILTER
    yield knob("diverse", True, "keep the predictions of a batch spread over the classes",
               paper="weight 0.5 as in a public re-implementation of 2308.06879"), "diversity term"


def _empty_figures(go):
    """Error per round, who the falling are, and the histogram of d, with nothing in them."""
    def line(label, number):
        return go.Scatter(x=[], y=[], name=label, mode="lines+markers", **look(number))

    groups = [(GROUP_LABELS[group], GROUP_LOOKS[group]) for group in diagnose.GROUPS]
    stairs = [go.Scatter(x=[], y=[], name=label, mode="lines",
                         line={**look(number)["line"], "shape": "hv"}) for label, number in groups]
    errors = [line("BN-1", 3), line("previous run", 1), line("this run", 0)]
    legend = {"orientation": "h", "yref": "container", "y": 0.0, "yanchor": "bottom", "x": 0.5,
              "xanchor": "center"}
    rounds = "round (0 = first)"
    for traces, title, x, y, xs, ys, form in (
            (errors, "Error per round", rounds, "error, known (%)", [0, 1], [0, 100], None),
            ([line(*group) for group in groups], "Who the falling are (d < 0)", rounds,
             "share of the falling", [0, 1], [0, 1.05], ".0%"),
            (stairs, "Confidence difference, last round", "d = adapted - source probability",
             "share of the group", [-1, 1], [0, 1.05], ".0%")):
        figure = empty_figure(traces, title, x, y, (WIDTH, HEIGHT), 66, legend=legend)
        figure.update_xaxes(range=xs).update_yaxes(range=ys, tickformat=form)
        if traces is stairs:
            figure.add_vline(x=0, line={"color": "#555555", "width": 1})
        yield figure
