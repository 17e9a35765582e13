"""The panel of the second notebook: choose a protocol, see the stream at once, run source, BN-1
and Tent on it.

Whatever the panel does, ``streams.study.one_run`` and the functions in ``protocols`` do without it;
``to_code()`` says how.
"""
from __future__ import annotations

import html
from functools import partial

import numpy as np

from ..analysis import diagnose
from ..experiments.runner import row
from ..plots import look, plot_stream
from ..streams import protocols
from ..streams.stream import AbstractStream
from ..studies.streams.study import LOOKS, METHODS, MODEL, first_sentence, one_run, say_statistics
from .controls import control
from .crowd_panel import HEIGHT
from .layout import BESIDE, details, div, table_html
from .live import empty_figure, live_figure, show
from .run_panel import NOTHING, Pace, StudyPanel
from .stream_settings import (
    CLUMPED,
    FIRST,
    SHIFTS,
    ByHand,
    applies,
    protocol_call,
    some_shifts,
    stream_knobs,
)

RESETS = {"never": "never reset", "domain": "reset at each new domain",
          "batch": "reset before every batch"}
TABLE = {  # of the results: title, scale, digits
    "error": ("error, mean over domains (%)", 1, 1),
    "error_weighted": ("error, all images (%)", 1, 1), "ece": ("ECE (%)", 100, 1),
    "auroc": ("AUROC, unknown (%)", 100, 1), "resets": ("resets", 1, 0), "images": ("images", 1, 0)
}


def stream_panel(known: str = "fashion_mnist", interactive: bool = True, device="auto",
                 seed: int = 0, model: str = MODEL, **settings) -> StreamPanel:
    """A stream of a protocol of the literature, drawn while it is chosen, and three methods run on
    it.

    ``known`` and ``model`` are texts, as `tta_lab.load` and `names.open_model` take them.
    ``settings`` are first values of the controls by name (protocol="correlated", per_shift=50,
    ...). ``interactive`` shows the controls and runs in a thread when asked to. False returns a
    panel that has run once, in the caller's thread and with every callback called from Python, and
    that shows plain figures.
    """
    return StreamPanel(known, interactive, device, seed, settings, model).opened()


class StreamPanel(StudyPanel):
    """What ``stream_panel`` makes.

    ``stream`` is the last stream that was accepted and is drawn; ``incompatibility`` says why the
    present settings make none, or is "". ``table`` (a pandas frame, one row for each method)
    and ``traces`` (method -> Trace) belong to the last run.
    """

    height = 225

    def words(self) -> list[str]:
        """What will run, in a few words; the order of unknown images where there are some."""
        self.unsaid = () if self.values["unknown_ratio"] else ("unknown_mode",)
        return super().words()

    def __init__(self, known: str, interactive: bool, device, seed: int, settings: dict,
                 model: str = MODEL):
        import ipywidgets as W
        import pandas
        import plotly.graph_objects as go

        self._hand = ByHand(settings)
        settings |= {name: self._hand.value(name) for name in self._hand.defaults
                     if name not in settings}
        controls = {k.name: control(k, label) for k, label in stream_knobs(settings)}
        controls["shifts"] = shifts_list(settings.pop("shifts", FIRST))
        if settings:
            raise ValueError(f"the panel has no control {next(iter(settings))!r}; it has: "
                             f"{', '.join(controls)}")
        super().__init__(controls, interactive, "Run source, BN-1 and Tent on this stream", 130)
        self.known = known
        self.device = device
        self.seed = seed
        self.model = model
        self.incompatibility = ""
        self.stream: AbstractStream | None = None
        self._call: tuple[str, dict] | None = None  # of the accepted stream
        self._frame = pandas.DataFrame
        self.traces = {}
        self.table = self._frame()
        self.pace = Pace(0.5, 0.0)
        self._total = 0
        self._ran_words = ""
        self.numbers = W.HTML()
        self.stream_figure = live_figure(None, interactive)
        self.error_figure = live_figure(_empty_bars(go), interactive)
        self.figures = [self.error_figure]
        self._say("Nothing has run yet: press Run.")
        self._refresh()

    # --- callbacks

    def _on_change(self, name, value):
        self._set(self._hand.follow(name, value))
        self._refresh()

    def _refresh(self):
        name = self.controls["protocol"].value
        for control_name, widget in self.controls.items():
            widget.layout.display = None if applies(name, control_name) else "none"
        try:
            call = self.call()
            stream = protocols.PROTOCOLS[call[0]](self.known, **call[1])
        except ValueError as error:
            self.incompatibility = str(error)
            last = " The picture still shows the last stream that could be made."
            self.description.value = div(f"<b>These settings make no stream:</b> "
                                         f"{html.escape(self.incompatibility)}."
                                         f"{'' if self.stream is None else last}")
            return
        self.incompatibility = ""
        self._call = call
        if self.stream is None or stream.hash != self.stream.hash:
            self.stream = stream
            self._draw_stream()
            if self.ran and not self.running:  # the errors below are of another stream
                self._age()
        self._tell(self.describe())
        self.code.value = details("The cell that rebuilds this stream", self.to_code())

    def _refused(self):
        if self.incompatibility or self.stream is None:
            return ("Nothing was run, because these settings make no stream: "
                    f"{self.incompatibility}.")
        return ""

    def _of_run(self):
        return [self.numbers, *super()._of_run()]

    def _begin(self):
        super()._begin()
        self.traces = {}
        self.table = self._frame()
        self._ran_words = self.describe()
        return self._call[0], self.stream, float(self.ran["lr"])

    # --- the stream

    def call(self) -> tuple[str, dict]:
        """The name of the protocol and the arguments that the controls stand for."""
        return protocol_call(self.values, self.seed)

    def to_code(self) -> str:
        """The cell that rebuilds the accepted stream without the panel."""
        if self._call is None:
            return "# no stream has been made yet"
        name, call = self._call
        imports = "from tta_lab.streams import protocols\n"
        if name in CLUMPED:
            imports += "from tta_lab.streams.orders import Dirichlet\n"
        arguments = [repr(self.known), *(f"{key}={value!r}" for key, value in call.items())]
        ends = [", "] * (len(arguments) - 1) + [")"]
        lines = []
        last = f"stream = protocols.{name}("
        for argument, end in zip(arguments, ends, strict=True):
            if len(last) + len(argument + end) > 88:
                lines = [*lines, last.rstrip()]
                last = "    "
            last += argument + end
        return imports + "\n".join([*lines, last])

    # --- the work

    def _run(self, name, stream, lr):
        self._total = stream.n_images
        self.numbers.value = ""
        self.progress.value, self.progress.max = 0, stream.n_images * len(METHODS)
        self._draw_errors(stream)
        for i, method in enumerate(METHODS):
            done = i * stream.n_images
            each = partial(self._after_batch, method, done=done, stream=stream)
            trace = one_run(stream, method, lr, stop=self._stop.is_set, each=each,
                            device=self.device, model=self.model)
            if len(trace):
                self.traces[method] = trace
            if self._stop.is_set():
                break
        self._draw_errors(stream)
        self.table = self._frame([{"method": METHODS[m], **row(t)}
                                  for m, t in self.traces.items()])
        self.numbers.value = self._html_table()
        self._say(self.finding(name))

    def _after_batch(self, method, trace, done, stream):
        self.traces[method] = trace
        self._count(trace, done)
        if self.pace.due():
            self._say(f"Running: {METHODS[method]}, {len(trace)} of {stream.n_images} images."
                      f"{self._stopping}")
            self._draw_errors(stream)

    # --- words

    def describe(self) -> str:
        """What the stream is, and what its order is really like."""
        name = self._call[0] if self._call else self.controls["protocol"].value
        statistics = say_statistics(self.stream.statistics(), len(self.stream.classes))
        return (f"{name}: {first_sentence(protocols.PROTOCOLS[name])} This stream: {statistics}; "
                f"{RESETS[self.stream.reset]}.")

    def finding(self, name: str) -> str:
        """What the last run, on a stream of this protocol, found."""
        t = self.table
        if not len(t):
            return NOTHING
        errors = ", ".join(f"{method} {error:.1f} %" if np.isfinite(error) else
                           f"{method} without a labelled image"
                           for method, error in zip(t["method"], t["error"], strict=True))
        cut = t[~t["complete"].astype(bool)]
        if len(t) == len(METHODS) and not len(cut):
            return f"Done, {name}. Mean error over the domains: {errors}."
        where = "" if not len(cut) else (f", {cut['method'].iloc[0]} after "
                                         f"{cut['images'].iloc[0]} of {self._total} images")
        return f"Stopped on {name}{where}. Mean error over the domains seen: {errors}."

    def _html_table(self) -> str:
        if not len(self.table):
            return ""
        shown = {k: v for k, v in TABLE.items() if k in self.table}
        rows = [[html.escape(values["method"]),
                 *(f"{scale * values[k]:.{digits}f}" for k, (_, scale, digits) in shown.items())]
                for _, values in self.table.iterrows()]
        return table_html(["", *(title for title, _, _ in shown.values())], rows)

    # --- figures

    def _draw_stream(self):
        drawn = plot_stream(self.stream.picture(), "plotly")
        heats = [heat for heat in drawn.data if heat.type == "heatmap"]
        rows = sum(len(heat.z) for heat in heats)
        self._sized(drawn, 150 + 14 * min(rows, 26) + 80 * (len(drawn.data) > 2))
        for heat in heats:
            if len(heat.z) < 6:
                heat.colorbar.tickvals = [0, 0.5, 1]  # more would touch each other
        show(self.stream_figure, drawn)

    def _draw_errors(self, stream):
        names = [name.replace("_", " ").replace("+", " +<br>") for name in stream.domains]
        with self.pace.drawing(), self.error_figure.batch_update():
            for bars, method in zip(self.error_figure.data, METHODS, strict=True):
                trace = self.traces.get(method)
                labelled = trace is not None and np.any(
                    np.asarray(trace["known"], bool) & (np.asarray(trace["label"]) >= 0))
                bars.x = names if labelled else []
                bars.y = diagnose.error_per_domain(trace)["error"] if labelled else []

    @property
    def widget(self):
        """Everything in one box."""
        figures = (self.stream_figure.widget, *self._figure_widgets())
        return self.bench(self.controls.values(), figures, [self.numbers, self.code])

    def summary(self):
        return [self._ran_words or self.describe(), self.message], [self.stream_figure,
                                                                    self.error_figure]


def shifts_list(chosen):
    """The list of shifts, of which several can be chosen."""
    import ipywidgets as W

    return W.SelectMultiple(
        options=[(name.replace("_", " "), name) for name in SHIFTS], value=some_shifts(chosen),
        rows=6, description="shifts", tooltip="corruption types in the order of the list; with "
        "Ctrl or Shift several can be chosen")


def _empty_bars(go):
    """Error per domain, with nothing in it."""
    bars = [go.Bar(x=[], y=[], name=label,
                   marker={"color": look(number)["line"]["color"], "pattern": {"shape": shape}})
            for label, number, shape in zip(METHODS.values(), LOOKS.values(), ("x", "", "/"),
                                            strict=True)]
    legend = {"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"}
    figure = empty_figure(bars, "Error per domain", "domain", "error, known (%)", (BESIDE, HEIGHT),
                          50, barmode="group", legend=legend)
    return figure.update_yaxes(rangemode="tozero").update_xaxes(automargin=True)
