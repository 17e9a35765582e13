"""The panel of the first notebook: a few controls, a button and live figures around a plain function; whatever it does, that
function does without it."""
from __future__ import annotations

import html

import numpy as np

from ..analysis import diagnose
from ..core.knobs import Knob
from ..methods import make
from ..plots import FONT, GROUP_LABELS, GROUP_LOOKS, look
from ..studies.crowds import study as crowds
from .controls import control, find, narrow
from .live import live_figure
from .run_panel import RunPanel, guarded

FILTER = "filter: learn where d >= 0"
WIDTH, HEIGHT = 400, 265  # two figures side by side beside JupyterLab's file list on a screen of 1280 x 720


def crowd_panel(plan: crowds.Plan = crowds.FAST, interactive: bool = True, device="auto") -> CrowdPanel:
    """Tent with and without the filter and the diversity term, on a stream of this plan (its first seed), with controls.

    ``interactive`` shows the controls and runs in a thread when asked to. False returns a panel that has run once, in the
    caller's thread and with every callback fired from Python, and that shows plain figures.
    """
    panel = CrowdPanel(plan, interactive, device)
    if not interactive:
        panel.fire()
    return panel


class CrowdPanel(RunPanel):
    """What ``crowd_panel`` makes; ``settings``, ``trace`` and ``result`` (a dict of numbers) belong to the last run."""

    def __init__(self, plan: crowds.Plan, interactive: bool, device):
        import plotly.graph_objects as go

        super().__init__({k.name: control(k, label) for k, label in _knobs(plan)}, interactive, "Start a run with these settings")
        self.plan, self.device = plan, device
        self.settings, self.trace, self.result = {}, None, {}
        self.error_figure, self.fall_figure, self.rise_figure = (live_figure(f, interactive) for f in _empty_figures(go))
        self._on_change()
        self._say("Nothing has run yet: press Run.")

    # --- callbacks

    @guarded
    def _on_change(self, change=None):
        self.words.value = f"<div>Settings: {html.escape(self.in_words())}.</div>"

    def _of_run(self):
        return [figure.widget for figure in (self.error_figure, self.fall_figure, self.rise_figure) if self.interactive]

    def _begin(self):
        if self.settings:
            self._age()
        previous = diagnose.error_per_round(self.trace) if self.result else None
        self.trace, self.result = None, {}
        self.settings = {name: widget.value for name, widget in self.controls.items()}
        return (previous,)

    # --- the work

    def _run(self, previous):
        self._draw_start(previous)
        total = crowds.stream_of(self.plan, self.settings["unknown_ratio"], self.settings["rounds"], self.plan.first_seed).n_images
        self.progress.value, self.progress.max = 0, total
        trace = crowds.one_run(**self.settings, plan=self.plan, seed=self.plan.first_seed, stop=self._stop.is_set,
                               each=self._after_batch, device=self.device)
        self.trace = trace
        if len(trace):
            self.result = self._numbers(trace)
            self._draw(trace)
        self._say(self.finding())

    def _after_batch(self, trace):
        seen, total, rounds = len(trace), self.progress.max, self.settings["rounds"]
        self.progress.value = seen
        self._say(f"Running: round {int(trace.step('round')[-1]) + 1} of {rounds}, {seen} of {total} images.{self._stopping}")
        if seen * rounds % total == 0:  # a round is complete
            self._draw(trace)

    def _numbers(self, trace) -> dict:
        base = crowds.reference(trace)["error"]
        numbers = {name: value for name, value in crowds.summary(trace).items() if name != "per_round"}
        return numbers | {"bn_first": float(base[0]), "bn_last": float(base[-1]), "rounds": len(base), "images": len(trace),
                          "stopped": self._stop.is_set() and len(trace) < self.progress.max}

    # --- words

    def in_words(self, c: dict | None = None) -> str:
        """What the controls say, or the settings of a run."""
        c = c or {name: widget.value for name, widget in self.controls.items()}
        terms = [name for name, on in (("the filter", c["filtered"]), ("the diversity term", c["diverse"])) if on]
        unknown = f"{c['unknown_ratio']:g} unknown per known image" if c["unknown_ratio"] else "no unknown images (closed set)"
        return f"Tent {'with ' + ' and '.join(terms) if terms else 'alone'}, learning rate {c['lr']:.2g}, {unknown}, {c['rounds']} rounds"

    def finding(self) -> str:
        """What the last run found."""
        if not self.result:
            return "Stopped before the first batch: there is nothing to show."
        r, last = self.result, round(self.result["last"] - self.result["bn_last"], 1)
        beside = f"{abs(last):.1f} points {'worse' if last > 0 else 'better'} than BN-1" if last else "the same as BN-1"
        done = f"Stopped in round {r['rounds']}" if r["stopped"] else f"Done, {r['rounds']} rounds"
        return (f"{done}. Error in the first round {r['first']:.1f} %, in the last {r['last']:.1f} %, which is {beside} on the same images "
                f"({r['bn_last']:.1f} %). Learned from {100 * r['kept']:.0f} % of the images.")

    # --- figures

    def _draw_start(self, previous):
        last = self.settings["rounds"] - 1
        for figure in (self.error_figure, self.fall_figure, self.rise_figure):
            with figure.batch_update():
                for line in figure.data:
                    line.x, line.y = [], []
                if figure is not self.rise_figure:
                    figure.layout.xaxis.update(range=[-0.05 * last, 1.05 * last], dtick=1 if last <= 10 else None)
                if figure is self.error_figure and previous is not None:
                    figure.data[1].x, figure.data[1].y = previous["round"], previous["error"]

    def _draw(self, trace):
        run, base, fall = diagnose.error_per_round(trace), crowds.reference(trace), diagnose.rise_and_fall(trace)
        rise = diagnose.rise_histogram(trace)
        with self.error_figure.batch_update():
            for line, numbers in ((self.error_figure.data[0], base), (self.error_figure.data[2], run)):
                line.x, line.y = numbers["round"], numbers["error"]
            self.error_figure.layout.yaxis.range = [0, 1.1 * max(np.max(line.y, initial=1.0) for line in self.error_figure.data)]
        with self.fall_figure.batch_update():
            for line, group in zip(self.fall_figure.data, diagnose.GROUPS, strict=True):
                line.x, line.y = fall["round"], fall["among_falling"][group]
        with self.rise_figure.batch_update():
            for line, group in zip(self.rise_figure.data, diagnose.GROUPS, strict=True):
                share = rise["late"]["share"][group]
                line.x, line.y = rise["edges"], np.append(share, share[-1])
            self.rise_figure.layout.yaxis.range = [0, 1.1 * max(np.nan_to_num(line.y).max(initial=0.01) for line in self.rise_figure.data)]
            self.rise_figure.layout.title.text = f"Confidence difference, round {fall['round'][-1]}"

    @property
    def widget(self):
        """Everything in one box."""
        import ipywidgets as W

        c, wrap = self.controls, {"flex_flow": "row wrap", "align_items": "flex-start"}
        sliders = W.VBox([c["lr"], c["unknown_ratio"], c["rounds"]])
        rest = W.VBox([c["filtered"], c["diverse"], W.HBox([self.run_button, self.stop_button]), self.progress])
        figures = W.HBox([f.widget for f in (self.error_figure, self.fall_figure, self.rise_figure)], layout=wrap)
        return W.VBox([W.HBox([sliders, rest], layout=wrap), self.words, self.status, figures])

    def told(self):
        return [f"Settings: {self.in_words(self.settings)}.", self.message], [self.error_figure, self.fall_figure, self.rise_figure]


def _knobs(plan: crowds.Plan):
    """(knob, label) of every control; the knob of the learning rate is that of the optimiser step, with a narrower range."""
    def knob(name, value, why, low=None, high=None, paper="", unit=""):
        return Knob(name, value, value, low, high, False, None, why, paper, unit)

    step = narrow(find(make("tent", lr=plan.lr), "lr"), 1e-4, 1e-1)
    yield Knob(**{**vars(step), "name": "lr"}), "learning rate"
    yield knob("unknown_ratio", float(min(plan.unknown_ratio, 2) if "open" in plan.settings else 0), "unknown images for each known one, 0 for the closed set", 0.0, 2.0,
               unit="unknown per known image"), "unknown per known"
    yield knob("rounds", plan.rounds, "how often the stream goes over all shifts", 2, max(20, plan.rounds), unit="rounds"), "rounds"
    yield knob("filtered", True, "learn only from images whose confidence has not fallen", paper="Wisdom of crowds (2308.06879)"), FILTER
    yield knob("diverse", True, "keep the predictions of a batch spread over the classes",
               paper="weight 0.5 as in a public re-implementation of 2308.06879"), "diversity term"


def _empty_figures(go):
    """Error per round, who the falling are, and the histogram of d, with nothing in them."""
    def line(label, number, **more):
        return go.Scatter(x=[], y=[], name=label, mode="lines+markers", **more, **look(number))

    groups = [(GROUP_LABELS[group], GROUP_LOOKS[group]) for group in diagnose.GROUPS]
    stairs = [go.Scatter(x=[], y=[], name=label, mode="lines", line={**look(number)["line"], "shape": "hv"}) for label, number in groups]
    figures = (
        ([line("BN-1", 3), line("previous run", 1), line("this run", 0)], "Error per round", "round (0 = first)", "error, known (%)"),
        ([line(*group) for group in groups], "Who the falling are (d < 0)", "round (0 = first)", "share of the falling"),
        (stairs, "Confidence difference, last round", "d = adapted - source probability", "share of the group"))
    for i, (traces, title, x, y) in enumerate(figures):
        figure = go.Figure(traces)
        figure.update_layout(
            template="plotly_white", width=WIDTH, height=HEIGHT, font_size=FONT - 1, margin={"l": 55, "r": 10, "t": 32, "b": 66},
            title={"text": title, "font_size": FONT + 1, "x": 0.02, "y": 0.97}, showlegend=True,
            legend={"orientation": "h", "yref": "container", "y": 0.0, "yanchor": "bottom", "x": 0.5, "xanchor": "center"})
        figure.update_xaxes(title={"text": x, "standoff": 4}, range=[-1, 1] if i == 2 else [0, 1])
        figure.update_yaxes(title={"text": y, "standoff": 4}, range=[0, 1.05] if i else [0, 100], tickformat=".0%" if i else None)
        if i == 2:
            figure.add_vline(x=0, line={"color": "#555555", "width": 1})
        yield figure
