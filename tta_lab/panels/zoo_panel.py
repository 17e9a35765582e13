"""The panel of the third notebook: the table of all methods on all streams as a heat map, of which
any cell can be run again.

The map is ``zoo.table.heat_map``, a run is ``zoo.study.live``, the comparison
``zoo.study.compared``: all of them run without the panel, and ``to_code()`` says how.
"""
from __future__ import annotations

import math
import time
from dataclasses import replace
from functools import partial

from ..experiments.runner import row
from ..methods import METHODS
from ..studies.report import points
from ..studies.zoo import figures as plots
from ..studies.zoo.cells import (
    LABELS,
    MEAN,
    METRICS,
    SOURCES,
    TUNINGS,
    Zoo,
    has_rate,
    load_zoo,
    split,
)
from ..studies.zoo.study import compared, live, numbers_of, zoo_stream
from ..studies.zoo.table import heat_map, say_source
from .controls import dropdown, tick
from .layout import details
from .live import live_figure, show
from .run_panel import NOTHING_BESIDE, Pace, StudyPanel, report_errors

PATIENCE = 15.0    # seconds: longer runs wait for the Run button
BESIDE = {"BN-1": "batch_norm", "source": "source"}  # run once on each stream, for comparison
IMAGES = {"long_term": 6000, "batch_of_one": 300}   # the others: 3000
SHORT = {"error": "error (%)", "difference": "error minus BN-1's (points)",
         "ece": "calibration, ECE (%)", "auroc": "AUROC, known / unknown (%)",
         "cost": "cost (time, source = 1)"}
FIRST = {"source": MEAN, "tuning": "default", "metric": "error", "order": "family", "forms": False,
         "method": "tent", "stream": "correlated", "at_once": True}


def zoo_panel(zoo: Zoo | None = None, interactive: bool = True, device: str = "cpu", seed: int = 0,
              **settings) -> ZooPanel:
    """The heat map with its controls; the chosen cell is run again and compared with the stored
    number.

    ``zoo``: the table, by default the one that comes with the package. ``settings`` are first
    values of the controls by name (source="mean", tuning="default", metric="error",
    order="family", forms=False, method="tent", stream="correlated", at_once=True). ``interactive``
    shows the controls and runs in a thread. False returns a panel of which every callback has been
    called from Python and whose chosen cell has run in the caller's thread; it shows plain figures.
    Raises ValueError for a setting or a value that does not exist.
    """
    zoo = load_zoo() if zoo is None else zoo
    return ZooPanel(zoo, interactive, device, seed, settings).opened()


class ZooPanel(StudyPanel):
    """What ``zoo_panel`` makes.

    ``numbers`` is what the map shows. ``trace`` is the last run, ``beside`` those of BN-1 and
    source on the same stream, ``result`` the comparison with the stored number
    (`zoo.study.compared`), or None before the first run; ``ran`` its source, stream, method,
    tuning and rate. ``error`` is the exception that ended the last run, or None.
    """

    plots = plots.plot_run_errors, plots.plot_run_predictions

    def __init__(self, zoo: Zoo, interactive: bool, device: str, seed: int, settings: dict):
        unknown = [name for name in settings if name not in FIRST]
        if unknown:
            raise ValueError(f"the panel has no control {unknown[0]!r}; it has: "
                             f"{', '.join(FIRST)}")
        self.zoo = zoo
        self.device = device
        self.seed = seed
        self.beside = {}
        self._known: dict = {}  # (source, stream) -> name -> trace
        self._speed = 2e-4  # seconds an image of the source, measured
        super().__init__(self._controls(FIRST | settings), interactive,
                         "Run the chosen cell again and compare it with the stored number", 100,
                         370)
        self.map = live_figure(self._new_map(), interactive)
        self.errors, self.predictions = self.figures
        self.pace = Pace(1.0, 0.0)
        self._say("Nothing has run yet: click a cell of the map, or choose a method and a stream "
                  "and press Run.")
        if interactive:
            self.map.on_click(self._on_click)
        self._outline()
        self._refresh()

    def _controls(self, first: dict) -> dict:
        zoo = self.zoo

        def choice(name, options, label, tooltip):
            return dropdown(name, options, first[name], label, tooltip)

        sources = [(say_source(zoo, name), name) for name in (MEAN, *zoo.sources)
                   if zoo.members(name)]
        columns = LABELS if zoo.ground is None else {name: LABELS[name] for name in zoo.streams()}
        return {
            "source": choice("source", sources, "source model",
                             "whose numbers are shown; of the mean the first one is run"),
            "tuning": choice("tuning", list(TUNINGS), "rate",
                             "; ".join(f"{k}: {v}" for k, v in TUNINGS.items())),
            "metric": choice("metric", {name: SHORT[name] for name in METRICS}, "number",
                             "what the cells hold"),
            "order": choice("order", {"family": "by family", "error": "by mean error"}, "rows",
                            "order of the methods"),
            "forms": tick(first["forms"], "also forms of public code"),
            "method": choice("method", zoo.methods(forms=True), "method",
                             "row of the cell that is run"),
            "stream": choice("stream", columns, "stream", "column of the cell that is run"),
            "at_once": tick(first["at_once"], "run a cell as soon as it is chosen")}

    # --- callbacks

    def _on_change(self, name, value):
        if name in ("source", "tuning", "metric", "order", "forms"):
            show(self.map, self._new_map())
            self._outline()
        self._refresh()
        if name in ("method", "stream"):
            self._outline()
            self._start_if_wanted()

    @report_errors
    def _on_click(self, trace, x, y):
        """A cell of the map was clicked."""
        if trace.type == "heatmap":
            self.choose(self.numbers["rows"][int(y)], self.numbers["streams"][int(x)])

    def choose(self, method: str, stream: str) -> None:
        """What a click does: take this cell and, where that is wanted and quick, run it."""
        self._set({"method": method, "stream": stream})
        self._outline()
        self._refresh()
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
        c = self.values
        return self.zoo.members(c["source"])[0], c["stream"], c["method"], c["tuning"]

    @property
    def chosen(self):
        return (*self.cell, self.rate())

    def rate(self) -> float:
        """The multiple of the default rate that the chosen cell was run at; 1 where none is
        stored."""
        rate = self.zoo.cell(*self.cell).get("rate", math.nan)
        return 1.0 if math.isnan(rate) else rate

    def seconds(self) -> float:
        """About how long the chosen cell takes, from its stored cost and the speed of the last
        run."""
        source, stream, method, _ = self.cell
        ratios = [self.zoo.value(source, s, method, "default", "cost") for s in (stream, *LABELS)]
        ratio = next((r for r in ratios if math.isfinite(r)), 35.0)
        single = 5 if stream == "batch_of_one" else 1
        return ratio * single * self._speed * self._images(stream)

    def _images(self, stream: str) -> int:
        if self.zoo.ground is None:
            return IMAGES.get(stream, 3000)
        return self._stream(stream).n_images

    def _stream(self, name: str):
        return zoo_stream(name, self.seed, self.zoo.ground)[0]

    def _refused(self) -> str:
        source = self.cell[0]
        if source not in SOURCES and self.zoo.ground is None:
            return (f"{source} cannot be run here, because its images are not embedded; "
                    "benchmarks/quality.py runs it. The stored numbers are shown.")
        return ""

    def to_code(self) -> str:
        """The lines that make the run shown without the panel; before the first run, that of the
        chosen cell."""
        source, stream, method, tuning, rate = self.chosen if self.trace is None else self.ran
        rate = f", rate={rate:g}" if rate != 1 else ""
        cell = self.zoo.cell(source, stream, method, tuning)
        stored = "nothing"
        if cell.get("seeds"):
            errors = " ".join(f"{e:.2f}" for e in cell["errors"])
            stored = f"{errors} (seeds {' '.join(map(str, cell['seeds']))})"
        ground = self.zoo.ground
        made = ""
        more = ""
        where = "stored"
        if ground is not None:
            made = f"ground = zoo_study.{replace(ground, notes=())!r}\n"
            more = ", ground=ground"
            where = "in the table"
        return ("from tta_lab.studies.zoo import study as zoo_study\n"
                "from tta_lab.experiments.runner import row\n"
                f"{made}trace = zoo_study.live({source!r}, {stream!r}, {method!r}{rate}, "
                f"seed={self.seed}{more})\n"
                f"row(trace)[\"error\"]  # {where}: {stored}")

    # --- the work

    def _begin(self):
        super()._begin()
        return self.ran

    def _run(self, source, stream, method, tuning, rate):
        images = self._images(stream)
        known = self._known.setdefault((source, stream), {})
        if not self._references(source, stream, images, known):
            return
        self.beside = {k: t for k, t in known.items()
                       if method not in BESIDE.values() or BESIDE[k] != method}
        done = self.progress.max - images
        began = time.perf_counter()
        names = {"name": method, "classes": self._stream(stream).classes}

        try:
            found = self._watch(
                lambda each: live(source, stream, method, rate, self.seed, self._stop.is_set, each,
                                  self.device, self.zoo.ground),
                lambda trace: numbers_of(trace, self.beside, **names),
                f"Running {method} on {LABELS[stream]}, {source}", images, done)
        except (ValueError, RuntimeError) as error:
            stored = self.zoo.cell(source, stream, method, tuning)
            if not stored.get("refused") or stored["seeds"]:
                raise
            self.result = {"same": True, "words": f"refuses, as stored: {error}"}
            self._say(f"{method} on {LABELS[stream]} refuses, as stored: {error}")
            return
        if found is not None:
            seconds = time.perf_counter() - began
            self.result = compared(self.zoo, source, stream, method, tuning, self.seed, self.trace,
                                   seconds)
            self._refresh()
            self._say(self.finding())

    def _references(self, source, stream, images, known) -> bool:
        """Run BN-1 and source where they are not ``known`` yet; False when stopped meanwhile."""
        missing = [name for name in BESIDE if name not in known]
        self.progress.value, self.progress.max = 0, images * (1 + len(missing))
        for i, name in enumerate(missing):
            began = time.perf_counter()
            self._say(f"Running {name} on {LABELS[stream]}, {source}, for comparison.")
            each = partial(self._count, done=i * images)
            reference = live(source, stream, BESIDE[name], 1.0, self.seed, self._stop.is_set, each,
                             self.device, self.zoo.ground)
            if not reference.meta["complete"]:
                self._say(NOTHING_BESIDE.format(f"{name} was"))
                return False
            known[name] = reference
            if name == "source" and stream != "batch_of_one":
                self._speed = (time.perf_counter() - began) / images
        return True

    # --- words

    def finding(self) -> str:
        """What the last run found."""
        r = self.result
        own = math.isfinite(r["rate"]) and r["rate"] != 1
        rate = f" at {r['rate']:g} times its rate" if own else ""
        complete = "Done" if self.trace.meta["complete"] else "Stopped"
        others = ", ".join(f"{name} {row(trace)['error']:.2f} %"
                           for name, trace in self.beside.items())
        return (f"{complete}, {r['method']}{rate} on {LABELS[r['stream']]}, {r['source']}, "
                f"{r['seconds']:.1f} s: error {r['error']:.2f} %; {r['words']}. For comparison: "
                f"{others}.")

    def words(self) -> list[str]:
        """The chosen cell in a few words."""
        source, stream, method, tuning = self.cell
        times = self.rate()
        rate = [f"rate x {times:g}"] if has_rate(method) else []
        value = self.zoo.mean(stream, method, tuning, "error", self.controls["source"].value)
        stored = f"stored: {value:.1f} %" if math.isfinite(value) else "nothing stored"
        return [source, LABELS[stream], method, *rate, stored]

    def describe(self) -> str:
        """What the chosen cell holds."""
        choice = self.controls["source"].value
        (_, stream, method, tuning) = self.cell
        reason = self.zoo.reason(stream, method, tuning, choice)
        value = self.zoo.mean(stream, method, tuning, "error", choice)
        name = split(method)[0]
        paper = METHODS[name].paper.rstrip(".") if name in METHODS else ""
        text = f"{method} on {LABELS[stream]}" + (f" ({paper})" if paper else "") + ": "
        if reason:
            text += f"no number for {say_source(self.zoo, choice)}, {reason}."
        else:
            beyond = self.zoo.mean(stream, method, tuning, "difference", choice)
            times = self.rate()
            rate = ("it has no rate" if not has_rate(method) else
                    "at its own rate" if times == 1 else f"at {times:g} times its own rate")
            text += (f"error {value:.1f} %, {points(beyond)} from BN-1 "
                     f"({say_source(self.zoo, choice)}); {rate}.")
        seconds = self.seconds()
        return f"{text} A run takes about {f'{seconds:.0f} s' if seconds >= 1 else 'a second'}."

    def _refresh(self):
        self._tell(self.describe())
        which = "run the chosen cell" if self.trace is None else "make the run shown"
        self.code.value = details(f"The lines that {which} without the panel", self.to_code())

    # --- figures

    def _new_map(self):
        c = self.values
        self.numbers = heat_map(self.zoo, c["source"], c["tuning"], c["metric"], c["order"],
                                c["forms"])
        drawn = plots.plot_zoo(self.numbers, "plotly").update_layout(width=self.wide)
        if self.interactive:  # little room beside the controls
            drawn.update_layout(margin_l=210 if self.numbers["grouped"] else 130)
            drawn.update_annotations(xshift=-122)
        return drawn

    def _outline(self):
        """A frame around the chosen cell, where the map shows it."""
        _, stream, method, _ = self.cell
        rows = self.numbers["rows"]
        streams = self.numbers["streams"]
        shapes = [s for s in self.map.layout.shapes if s.type != "rect"]
        if method in rows and stream in streams:
            i, j = rows.index(method), streams.index(stream)
            shapes.append({"type": "rect", "x0": j - .5, "x1": j + .5, "y0": i - .5, "y1": i + .5,
                           "line": {"color": "#000000", "width": 3}})
        with self.map.batch_update():
            self.map.layout.shapes = shapes

    @property
    def widget(self):
        """Everything in one box."""
        return self.bench(self.controls.values(), [self.map.widget, *self._figure_widgets()],
                          [self.code])

    def summary(self):
        return [self.describe(), self.message], [self.map, *self.figures]

