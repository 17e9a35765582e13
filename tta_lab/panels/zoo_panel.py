"""The panel of the third notebook: the table of all methods on all streams as a heat map, of which any cell can be run again.

The map is ``zoo_table.heat_map``, a run is ``zoo_study.live``, the comparison ``zoo_study.compared``: all of them run without the panel, and
``to_code()`` says how.
"""
from __future__ import annotations

import html
import math
import time
from dataclasses import replace
from functools import partial

from ..methods import METHODS
from ..plots import FONT, fit
from ..studies.report import points
from ..studies.zoo import figures as plots
from ..studies.zoo.cells import LABELS, MEAN, METRICS, SOURCES, TUNINGS, Zoo, has_rate, load_zoo, split
from ..studies.zoo.study import compared, live, numbers_of, zoo_stream
from ..studies.zoo.table import heat_map, say_source
from .live import live_figure
from .run_panel import RunPanel, guarded, own_keys

WIDTH = 820        # beside JupyterLab's file list on a screen of 1280 x 720
PATIENCE = 15.0    # seconds: longer runs wait for the Run button
PAUSE = 1.0        # seconds between two drawings while a run goes on
BESIDE = {"BN-1": "batch_norm", "source": "source"}  # run once on each stream, for comparison
IMAGES = {"long_term": 6000, "batch_of_one": 300}   # the others: 3000
SHORT = {"error": "error (%)", "difference": "error minus BN-1's (points)", "ece": "calibration, ECE (%)", "auroc": "AUROC, known / unknown (%)",
         "cost": "cost (time, source = 1)"}


def zoo_panel(zoo: Zoo | None = None, interactive: bool = True, device: str = "cpu", seed: int = 0, **settings) -> ZooPanel:
    """The heat map with its controls; the chosen cell is run again and compared with the stored number.

    ``zoo``: the table, by default the one that comes with the package. ``settings`` are first values of the controls by name
    (source="mean", tuning="default", metric="error", order="family", forms=False, method="tent", stream="correlated", at_once=True). ``interactive``
    shows the controls and runs in a thread. False returns a panel of which every callback has been fired from Python and whose chosen cell
    has run in the caller's thread; it shows plain figures. Raises ValueError for a setting or a value that does not exist.
    """
    panel = ZooPanel(load_zoo() if zoo is None else zoo, interactive, device, seed, settings)
    if not interactive:
        panel.fire()
    return panel


class ZooPanel(RunPanel):
    """What ``zoo_panel`` makes.

    ``numbers`` is what the map shows. ``trace`` is the last run, ``beside`` those of BN-1 and source on the same stream, ``result`` the comparison
    with the stored number (`zoo_study.compared`), or None before the first run; ``ran`` its source, stream, method, tuning and rate. ``error`` is
    the exception that ended the last run, or None.
    """

    def __init__(self, zoo: Zoo, interactive: bool, device: str, seed: int, settings: dict):
        import ipywidgets as W

        self.zoo, self.device, self.seed = zoo, device, seed
        self.trace, self.beside, self.result, self.numbers, self.ran = None, {}, None, None, None
        self._known: dict = {}                # (source, stream) -> name -> trace
        self._busy = False  # several controls are being set
        self._speed, self._drawn = 2e-4, 0.0  # seconds an image of the source, measured with every run
        given = {"source": MEAN, "tuning": "default", "metric": "error", "order": "family", "forms": False, "method": "tent", "stream": "correlated",
                 "at_once": True}
        unknown = [name for name in settings if name not in given]
        if unknown:
            raise ValueError(f"the panel has no control {unknown[0]!r}; it has: {', '.join(given)}")
        given |= settings

        def choice(name, options, label, tooltip):
            values = [value for _, value in options]
            if given[name] not in values:
                raise ValueError(f"{name} must be one of {', '.join(map(str, values))}, not {given[name]!r}")
            return W.Dropdown(options=options, value=given[name], description=label, tooltip=tooltip)

        controls = {
            "source": choice("source", [(say_source(zoo, name), name) for name in (MEAN, *zoo.sources) if zoo.members(name)], "source model",
                             "whose numbers are shown; of the mean the first one is run"),
            "tuning": choice("tuning", [(name, name) for name in TUNINGS], "rate", "; ".join(f"{k}: {v}" for k, v in TUNINGS.items())),
            "metric": choice("metric", [(SHORT[name], name) for name in METRICS], "number", "what the cells hold"),
            "order": choice("order", [("by family", "family"), ("by mean error", "error")], "rows", "order of the methods"),
            "forms": W.Checkbox(value=bool(given["forms"]), description="also forms of public code", indent=False),
            "method": choice("method", [(label, label) for label in zoo.methods(forms=True)], "method", "row of the cell that is run"),
            "stream": choice("stream", [(LABELS[n], n) for n in (LABELS if zoo.ground is None else zoo.streams())], "stream", "column of the cell that is run"),
            "at_once": W.Checkbox(value=bool(given["at_once"]), description="run a cell as soon as it is chosen", indent=False),
        }
        super().__init__(controls, interactive, "Run the chosen cell again and compare it with the stored number", 100, 370)
        self.map = live_figure(self._new_map(), interactive)
        self.errors, self.predictions = (live_figure(drawn, interactive) for drawn in _run_figures(None))
        self.code = W.HTML()
        self._say("Nothing has run yet: click a cell of the map, or choose a method and a stream and press Run.")
        if interactive:
            self.map.on_click(self._on_click)
        self._outline()
        self._describe()

    # --- callbacks

    @guarded
    def _on_change(self, change=None):
        if self._busy or change is None:
            return
        owner = next(name for name, widget in self.controls.items() if widget is change["owner"])
        if owner in ("source", "tuning", "metric", "order", "forms"):
            self._draw_map()
        self._describe()
        if owner in ("method", "stream"):
            self._outline()
            self._start_if_wanted()

    @guarded
    def _on_click(self, trace, x, y):
        """A cell of the map was clicked."""
        if trace.type == "heatmap":
            self.choose(self.numbers["rows"][int(y)], self.numbers["streams"][int(x)])

    def choose(self, method: str, stream: str) -> None:
        """What a click does: take this cell and, where that is wanted and quick, run it."""
        self._busy = True
        try:
            self.controls["method"].value, self.controls["stream"].value = method, stream
        finally:
            self._busy = False
        self._outline()
        self._describe()
        self._start_if_wanted()

    def _start_if_wanted(self):
        if not (self.interactive and self.controls["at_once"].value):
            return
        seconds = self.seconds()
        if self._refused():
            self._say(self._refused())
        elif seconds > PATIENCE:
            self._say(f"This cell takes about {seconds:.0f} s: press Run to start it.")
        else:
            self._run_after("Ending the run in work; the cell just chosen follows.")

    # --- the cell

    @property
    def cell(self) -> tuple[str, str, str, str]:
        """Source, stream, method and tuning of the chosen cell; of the mean the first source."""
        c = self.controls
        return self.zoo.members(c["source"].value)[0], c["stream"].value, c["method"].value, c["tuning"].value

    def rate(self) -> float:
        """The multiple of the default rate that the chosen cell was run at; 1 where none is stored."""
        rate = self.zoo.cell(*self.cell).get("rate", math.nan)
        return 1.0 if math.isnan(rate) else rate

    def seconds(self) -> float:
        """About how long the chosen cell takes, from its stored cost and the speed of the last run."""
        source, stream, method, _ = self.cell
        ratios = [self.zoo.value(source, s, method, "default", "cost") for s in (stream, *LABELS)]
        ratio = next((r for r in ratios if math.isfinite(r)), 35.0)
        single = 5 if stream == "batch_of_one" else 1
        return ratio * single * self._speed * self._images(stream)

    def _images(self, stream: str) -> int:
        return IMAGES.get(stream, 3000) if self.zoo.ground is None else zoo_stream(stream, self.seed, self.zoo.ground)[0].n_images

    def _refused(self) -> str:
        source = self.cell[0]
        if source not in SOURCES and self.zoo.ground is None:
            return f"{source} cannot be run here, because its images are not embedded; benchmarks/quality.py runs it. The stored numbers are shown."
        return ""

    def to_code(self) -> str:
        """The lines that make the run shown without the panel; before the first run, that of the chosen cell."""
        source, stream, method, tuning, rate = (*self.cell, self.rate()) if self.trace is None else self.ran
        rate = f", rate={rate:g}" if rate != 1 else ""
        made = "" if self.zoo.ground is None else f"ground = zoo_study.{replace(self.zoo.ground, notes=())!r}\n"
        more = "" if self.zoo.ground is None else ", ground=ground"
        return ("from tta_lab.studies.zoo import study as zoo_study\nfrom tta_lab.experiments.runner import row\n"
                f"{made}trace = zoo_study.live({source!r}, {stream!r}, {method!r}{rate}, seed={self.seed}{more})\n"
                f"row(trace)[\"error\"]  # {'stored' if self.zoo.ground is None else 'in the table'}: {self._stored_text(source, stream, method, tuning)}")

    def _stored_text(self, source, stream, method, tuning) -> str:
        cell = self.zoo.cell(source, stream, method, tuning)
        return " ".join(f"{e:.2f}" for e in cell["errors"]) + f" (seeds {' '.join(map(str, cell['seeds']))})" if cell.get("seeds") else "nothing"

    # --- the work

    def _of_run(self):
        return [figure.widget for figure in (self.errors, self.predictions) if self.interactive]

    def _begin(self):
        if self.ran is not None:
            self._age()
        self.trace, self.result, self.ran = None, None, (*self.cell, self.rate())
        return self.ran

    def _run(self, source, stream, method, tuning, rate):
        images = self._images(stream)
        known = self._known.setdefault((source, stream), {})
        missing = [name for name in BESIDE if name not in known]
        self.progress.value, self.progress.max = 0, images * (1 + len(missing))
        for i, name in enumerate(missing):
            began = time.perf_counter()
            self._say(f"Running {name} on {LABELS[stream]}, {source}, for comparison.")
            other = live(source, stream, BESIDE[name], 1.0, self.seed, self._stop.is_set, partial(self._count, done=i * images), self.device,
                         self.zoo.ground)
            if not other.meta["complete"]:
                self._say(f"Stopped while {name} was run for comparison: there is nothing to show.")
                return
            known[name] = other
            if name == "source" and stream != "batch_of_one":
                self._speed = (time.perf_counter() - began) / images
        self.beside = dict(known) if method not in BESIDE.values() else {k: t for k, t in known.items() if BESIDE[k] != method}
        done, began = self.progress.max - images, time.perf_counter()
        names = {"name": method, "classes": self._classes(stream)}

        def each(trace):
            self._count(trace, done)
            if time.monotonic() - self._drawn > PAUSE:
                self._say(f"Running {method} on {LABELS[stream]}, {source}: {len(trace)} of {images} images.{self._stopping}")
                self._draw_run(numbers_of(trace, self.beside, **names))

        try:
            trace = live(source, stream, method, rate, self.seed, self._stop.is_set, each, self.device, self.zoo.ground)
        except (ValueError, RuntimeError) as why:
            stored = self.zoo.cell(source, stream, method, tuning)
            if not stored.get("refused") or stored["seeds"]:
                raise
            self.result = {"same": True, "words": f"refuses, as stored: {why}"}
            self._say(f"{method} on {LABELS[stream]} refuses, as stored: {why}")
            return
        seconds = time.perf_counter() - began
        if not len(trace):
            self._say("Stopped before the first batch: there is nothing to show.")
            return
        self.trace = trace
        self.result = compared(self.zoo, source, stream, method, tuning, self.seed, trace, seconds)
        self._draw_run(numbers_of(trace, self.beside, **names))
        self._describe()
        self._say(self.finding())

    def _count(self, trace, done=0):
        self.progress.value = done + len(trace)

    def _classes(self, stream) -> tuple:
        return zoo_stream(stream, self.seed, self.zoo.ground)[0].classes

    # --- words

    def finding(self) -> str:
        """What the last run found."""
        r = self.result
        from ..experiments.runner import row
        rate = f" at {r['rate']:g} times its rate" if math.isfinite(r["rate"]) and r["rate"] != 1 else ""
        complete = "Done" if self.trace.meta["complete"] else "Stopped"
        others = ", ".join(f"{name} {row(trace)['error']:.2f} %" for name, trace in self.beside.items())
        return (f"{complete}, {r['method']}{rate} on {LABELS[r['stream']]}, {r['source']}, {r['seconds']:.1f} s: error {r['error']:.2f} %; "
                f"{r['words']}. For comparison: {others}.")

    def in_words(self) -> str:
        """What the chosen cell holds."""
        choice, (_, stream, method, tuning) = self.controls["source"].value, self.cell
        why = self.zoo.reason(stream, method, tuning, choice)
        value = self.zoo.mean(stream, method, tuning, "error", choice)
        name = split(method)[0]
        paper = METHODS[name].paper if name in METHODS else ""
        text = f"{method} on {LABELS[stream]}" + (f" ({paper.rstrip('.')})" if paper else "") + ": "
        if why:
            text += f"no number for {say_source(self.zoo, choice)}, {why}."
        else:
            beyond = self.zoo.mean(stream, method, tuning, "difference", choice)
            rate = "it has no rate" if not has_rate(method) else "at its own rate" if self.rate() == 1 else f"at {self.rate():g} times its own rate"
            text += f"error {value:.1f} %, {points(beyond)} from BN-1 ({say_source(self.zoo, choice)}); {rate}."
        seconds = self.seconds()
        return text + f" A run takes about {seconds:.0f} s." if seconds >= 1 else text + " A run takes about a second."

    def _describe(self):
        self.words.value = f'<div style="line-height: 1.4">{html.escape(self.in_words())}</div>'
        which = "run the chosen cell" if self.trace is None else "make the run shown"
        self.code.value = (f"<details><summary>The lines that {which} without the panel</summary>"
                           f"<pre>{html.escape(self.to_code())}</pre></details>")

    # --- figures

    def _show(self, figure, drawn):
        with figure.batch_update():
            figure.data = ()
            figure.add_traces(drawn.data)
            figure.layout = drawn.layout

    def _new_map(self):
        c = {name: widget.value for name, widget in self.controls.items()}
        self.numbers = heat_map(self.zoo, c["source"], c["tuning"], c["metric"], c["order"], c["forms"])
        return plots.plot_zoo(self.numbers, "plotly").update_layout(width=WIDTH)

    def _draw_map(self):
        self._show(self.map, self._new_map())
        self._outline()

    def _outline(self):
        """A frame around the chosen cell, where the map shows it."""
        method, stream = self.controls["method"].value, self.controls["stream"].value
        lines = [s for s in self.map.layout.shapes if s.type != "rect"]
        if method in self.numbers["rows"] and stream in self.numbers["streams"]:
            i, j = self.numbers["rows"].index(method), self.numbers["streams"].index(stream)
            lines.append({"type": "rect", "x0": j - .5, "x1": j + .5, "y0": i - .5, "y1": i + .5, "line": {"color": "#000000", "width": 3}})
        with self.map.batch_update():
            self.map.layout.shapes = lines

    def _draw_run(self, numbers):
        self._drawn = time.monotonic()
        for figure, drawn in zip((self.errors, self.predictions), _run_figures(numbers), strict=True):
            self._show(figure, drawn)

    @property
    def widget(self):
        """Everything in one box."""
        import ipywidgets as W

        c, wrap = self.controls, {"flex_flow": "row wrap", "align_items": "flex-start"}
        left = W.VBox([c["source"], c["tuning"], c["metric"], c["order"], c["forms"]])
        right = W.VBox([c["method"], c["stream"], c["at_once"], W.HBox([self.run_button, self.stop_button]), self.progress])
        figures = (self.errors.widget, self.predictions.widget)
        return W.VBox([W.HBox([left, right], layout=wrap), self.map.widget, self.words, self.status, *figures, self.code, own_keys()])

    def told(self):
        return [self.in_words(), self.message], [self.map, self.errors, self.predictions]


def _run_figures(numbers):
    """The two figures of a run, four pictures in all, as wide as the map."""
    for plot in (plots.plot_run_errors, plots.plot_run_predictions):
        drawn = plot(numbers, "plotly")
        yield fit(drawn.update_layout(font_size=FONT - 1).update_annotations(font_size=FONT), WIDTH, 310)
