"""The panel of the second notebook: choose a protocol, see the stream at once, run source, BN-1 and Tent on it.

Whatever the panel does, ``stream_study.one_run`` and the functions in ``protocols`` do without it; ``to_code()`` says how.
"""
from __future__ import annotations

import html
import inspect
import time

import numpy as np

from ..analysis import diagnose
from ..core import arguments
from ..core.knobs import Knob, own_knobs
from ..data.corruptions import EXTRA_4, STANDARD_15
from ..experiments.runner import row
from ..methods import make
from ..plots import FONT, fit, look, plot_stream
from ..streams import protocols
from ..streams.orders import ClassImbalance, Dirichlet, LabelShift
from ..streams.stream import MIXING, AbstractStream
from ..studies.streams.study import FAST, LOOKS, METHODS, MODEL, clumps, first_sentence, one_run, say_statistics
from .controls import control, find, narrow
from .crowd_panel import HEIGHT
from .live import live_figure
from .run_panel import RunPanel, guarded, own_keys

SHIFTS = (*STANDARD_15, *EXTRA_4, "none")
FIRST = ("gaussian_noise", "motion_blur", "fog", "pixelate")  # one of each group
WIDTH = 820    # beside JupyterLab's file list on a screen of 1280 x 720
PAUSE = 0.5    # seconds between two drawings while a run goes on
TIMES = {"recurring": "visits", "cyclic": "cycles"}  # what other protocols call rounds
ON_CHOICE = {"open_set": ("unknown_ratio", 1.0), "long_term": ("rounds", 3), "recurring": ("rounds", 3)}  # what shows what the protocol is about
NO_BORDERS = ("mixed_domains", "mixed_correlated", "reset_each_shift", "label_shift", "batch_of_one")  # that a batch could reach over
CLUMPED = ("correlated", "mixed_correlated", "recurring")


def stream_panel(known: str = "fashion_mnist", interactive: bool = True, device="auto", seed: int = 0, model: str = MODEL,
                 **settings) -> StreamPanel:
    """A stream of a protocol of the literature, drawn while it is chosen, and three methods run on it.

    ``known`` and ``model`` are texts, as `tta_lab.load` and `names.open_model` take them.
    ``settings`` are first values of the controls by name (protocol="correlated", per_shift=50, ...). ``interactive`` shows the controls
    and runs in a thread when asked to. False returns a panel that has run once, in the caller's thread and with every callback fired
    from Python, and that shows plain figures.
    """
    panel = StreamPanel(known, interactive, device, seed, settings, model)
    if not interactive:
        panel.fire()
    return panel


class StreamPanel(RunPanel):
    """What ``stream_panel`` makes.

    ``stream`` is the last stream that was accepted and is drawn; ``refusal`` says why the present settings make none, or is "".
    ``table`` (a pandas frame, one row for each method) and ``traces`` (method -> Trace) belong to the last run.
    """

    def __init__(self, known: str, interactive: bool, device, seed: int, settings: dict, model: str = MODEL):
        import ipywidgets as W
        import pandas
        import plotly.graph_objects as go

        self._hand = ByHand(settings)
        settings |= {name: self._hand.value(name) for name in self._hand.usual if name not in settings}
        controls = {k.name: control(k, label) for k, label in stream_knobs(settings)}
        controls["shifts"] = W.SelectMultiple(
            options=[(name.replace("_", " "), name) for name in SHIFTS], value=some_shifts(settings.pop("shifts", FIRST)), rows=6,
            description="shifts",
            tooltip="corruption types in the order of the list; with Ctrl or Shift several can be chosen")
        if settings:
            raise ValueError(f"the panel has no control {next(iter(settings))!r}; it has: {', '.join(controls)}")
        super().__init__(controls, interactive, "Run source, BN-1 and Tent on this stream", 130, 390)
        self.known, self.device, self.seed, self.model, self.refusal = known, device, seed, model, ""
        self.stream: AbstractStream | None = None
        self._busy = False  # controls are being set
        self._call: tuple[str, dict] | None = None  # of the accepted stream
        self.traces, self.table, self._frame = {}, pandas.DataFrame(), pandas.DataFrame
        self._drawn, self._total, self._ran, self._ran_words = 0.0, 0, "", ""
        self.code, self.numbers = W.HTML(), W.HTML()
        self.stream_figure, self.error_figure = live_figure(None, interactive), live_figure(_empty_bars(go), interactive)
        self._say("Nothing has run yet: press Run.")
        self._on_change()

    # --- callbacks

    @guarded
    def _on_change(self, change=None):
        if self._busy:
            return
        self._busy = True
        try:
            self._hand.follow(self.controls, change)
        finally:
            self._busy = False
        name = self.controls["protocol"].value
        for control_name, widget in self.controls.items():
            widget.layout.display = None if applies(name, control_name) else "none"
        try:
            call = self.call()
            stream = protocols.PROTOCOLS[call[0]](self.known, **call[1])
        except ValueError as why:
            self.refusal = str(why)
            last = " The picture still shows the last stream that could be made." if self.stream is not None else ""
            self._describe(f"<b>These settings make no stream:</b> {html.escape(self.refusal)}.{last}")
            return
        self.refusal, self._call = "", call
        if self.stream is None or stream.hash != self.stream.hash:
            self.stream = stream
            self._draw_stream()
            if self._ran and not self.running:  # the errors below are of another stream
                self._age()
        self._describe(html.escape(self.in_words()))
        self.code.value = (f"<details><summary>The cell that rebuilds this stream</summary><pre>{html.escape(self.to_code())}</pre>"
                           "</details>")

    def _refused(self):
        if self.refusal or self.stream is None:
            return f"Nothing was run, because these settings make no stream: {self.refusal}."
        return ""

    def _of_run(self):
        return [self.numbers, *([self.error_figure.widget] if self.interactive else [])]

    def _begin(self):
        if self._ran:
            self._age()
        self.traces, self.table, self._ran_words = {}, self._frame(), self.in_words()
        return self._call[0], self.stream, float(self.controls["lr"].value)

    # --- the stream

    def call(self) -> tuple[str, dict]:
        """The name of the protocol and the arguments that the controls stand for."""
        return protocol_call({name: widget.value for name, widget in self.controls.items()}, self.seed)

    def to_code(self) -> str:
        """The cell that rebuilds the accepted stream without the panel."""
        if self._call is None:
            return "# no stream has been made yet"
        name, given = self._call
        arguments = [repr(self.known), *(f"{key}={value!r}" for key, value in given.items())]
        imports = "from tta_lab.streams import protocols\n" + ("from tta_lab.streams.orders import Dirichlet\n" if name in CLUMPED else "")
        lines, line = [], f"stream = protocols.{name}("
        for i, argument in enumerate(arguments):
            argument += ")" if i == len(arguments) - 1 else ", "
            if len(line) + len(argument) > 88:
                lines, line = [*lines, line.rstrip()], "    "
            line += argument
        return imports + "\n".join([*lines, line])

    # --- the work

    def _run(self, name, stream, lr):
        self._ran, self._total, self.numbers.value = name, stream.n_images, ""
        self.progress.value, self.progress.max = 0, stream.n_images * len(METHODS)
        self._draw_errors(stream)
        for i, method in enumerate(METHODS):
            def each(trace, done=i * stream.n_images, method=method):
                self._after_batch(method, trace, done, stream)

            trace = one_run(stream, method, lr, stop=self._stop.is_set, each=each, device=self.device, model=self.model)
            if len(trace):
                self.traces[method] = trace
            if self._stop.is_set():
                break
        self._draw_errors(stream)
        self.table = self._frame([{"method": METHODS[m], **row(t)} for m, t in self.traces.items()])
        self.numbers.value = self._html_table()
        self._say(self.finding())

    def _after_batch(self, method, trace, done, stream):
        self.traces[method] = trace
        self.progress.value = done + len(trace)
        if time.monotonic() - self._drawn > PAUSE:
            self._say(f"Running: {METHODS[method]}, {len(trace)} of {stream.n_images} images.{self._stopping}")
            self._draw_errors(stream)

    # --- words

    def in_words(self) -> str:
        """What the stream is, and what its order is really like."""
        name = self._call[0] if self._call else self.controls["protocol"].value
        statistics = say_statistics(self.stream.statistics(), len(self.stream.classes))
        reset = {"never": "never reset", "domain": "reset at each new domain", "batch": "reset before every batch"}[self.stream.reset]
        return f"{name}: {first_sentence(protocols.PROTOCOLS[name])} This stream: {statistics}; {reset}."

    def finding(self) -> str:
        """What the last run found."""
        if not len(self.table):
            return "Stopped before the first batch: there is nothing to show."
        t = self.table
        errors = ", ".join(f"{method} {error:.1f} %" if np.isfinite(error) else f"{method} without a labelled image"
                           for method, error in zip(t["method"], t["error"], strict=True))
        cut = t[~t["complete"].astype(bool)]
        if len(t) < len(METHODS) or len(cut):
            where = f", {cut['method'].iloc[0]} after {cut['images'].iloc[0]} of {self._total} images" if len(cut) else ""
            return f"Stopped on {self._ran}{where}. Mean error over the domains seen: {errors}."
        return f"Done, {self._ran}. Mean error over the domains: {errors}."

    def _describe(self, text: str):
        self.words.value = f'<div style="line-height: 1.4">{text}</div>'

    def _html_table(self) -> str:
        if not len(self.table):
            return ""
        shown = {"error": ("error, mean over domains (%)", 1), "error_weighted": ("error, all images (%)", 1), "ece": ("ECE (%)", 1),
                 "auroc": ("AUROC, unknown (%)", 1), "resets": ("resets", 0), "images": ("images", 0)}
        shown = {k: v for k, v in shown.items() if k in self.table}
        head = "".join(f'<th scope="col" style="padding: 1px 10px; text-align: right">{title}</th>' for title, _ in shown.values())
        lines = []
        for _, values in self.table.iterrows():
            scale = {"ece": 100, "auroc": 100}
            cells = "".join(f'<td style="padding: 1px 10px; text-align: right">{scale.get(k, 1) * values[k]:.{digits}f}</td>'
                            for k, (_, digits) in shown.items())
            lines.append(f'<tr><th scope="row" style="padding: 1px 10px; text-align: left">{html.escape(values["method"])}</th>{cells}</tr>')
        return f'<table style="line-height: 1.4"><tr><th scope="col"></th>{head}</tr>{"".join(lines)}</table>'

    # --- figures

    def _draw_stream(self):
        drawn, figure = plot_stream(self.stream.picture(), "plotly"), self.stream_figure
        rows = sum(len(heat.z) for heat in drawn.data if heat.type == "heatmap")
        height = 150 + 14 * min(rows, 26) + 80 * (len(drawn.data) > 2)
        fit(drawn.update_layout(font_size=FONT - 1).update_annotations(font_size=FONT), WIDTH, height)
        for heat in drawn.data:
            if heat.type == "heatmap" and len(heat.z) < 6:
                heat.colorbar.tickvals = [0, 0.5, 1]  # more would touch each other
        with figure.batch_update():
            figure.data = ()
            figure.add_traces(drawn.data)
            figure.layout = drawn.layout

    def _draw_errors(self, stream):
        self._drawn, figure = time.monotonic(), self.error_figure
        names = [name.replace("_", " ").replace("+", " +<br>") for name in stream.domains]
        with figure.batch_update():
            for bars, method in zip(figure.data, METHODS, strict=True):
                trace = self.traces.get(method)
                labelled = trace is not None and np.any(np.asarray(trace["known"], bool) & (np.asarray(trace["label"]) >= 0))
                bars.x, bars.y = (names, diagnose.error_per_domain(trace)["error"]) if labelled else ([], [])

    @property
    def widget(self):
        """Everything in one box."""
        import ipywidgets as W

        c, wrap = self.controls, {"flex_flow": "row wrap", "align_items": "flex-start"}
        left = W.VBox([c["protocol"], c["shifts"], c["straddle"], W.HBox([self.run_button, self.stop_button]), self.progress])
        right = W.VBox([widget for name, widget in c.items() if name not in ("protocol", "shifts", "straddle")])
        figures = (self.stream_figure.widget, self.error_figure.widget)
        return W.VBox([W.HBox([left, right], layout=wrap), self.words, self.status, *figures, self.numbers, self.code, own_keys()])

    def told(self):
        return [self._ran_words or self.in_words(), self.message], [self.stream_figure, self.error_figure]


class ByHand:
    """What the controls of a stream say when a protocol is chosen: the protocol's own values, and what was set by hand where that has a meaning.

    A value of `ON_CHOICE`, which belongs to what the protocol is about, stays with that protocol when set there, and comes back with it.
    ``settings`` are first values, which count as set by hand; ``usual`` the values of a fresh panel where they are other than those of `stream_knobs`.
    """

    def __init__(self, settings: dict, usual: dict | None = None):
        self.usual = {k.name: k.default for k, _ in stream_knobs({}) if k.name not in ("protocol", "lr")} | (usual or {})
        self.protocol = settings.get("protocol", "continual")
        self._set, self._own = {}, {}
        for name in self.usual.keys() & settings.keys():
            self.note(name, settings[name])

    def note(self, name: str, value) -> None:
        """A control was set by hand while this protocol was chosen."""
        if ON_CHOICE.get(self.protocol, ("",))[0] == name:
            self._own[self.protocol, name] = value
        elif value == self.usual[name]:
            self._set.pop(name, None)
        else:
            self._set[name] = value

    def value(self, name: str):
        """What a control says under the protocol chosen last."""
        own, value = ON_CHOICE.get(self.protocol, ("", None))
        given = self._set.get(name, value if name == own else self.usual[name])
        return self._own.get((self.protocol, name), given) if means(self.protocol, name) else self.usual[name]

    def follow(self, controls: dict, change) -> None:
        """Note what was set by hand; after another protocol was chosen, set the controls."""
        owner = None if change is None else next((name for name, widget in controls.items() if widget is change["owner"]), None)
        if owner == "protocol":
            self.protocol = change["new"]
            for name in self.usual:
                controls[name].value = self.value(name)
        elif owner in self.usual:
            self.note(owner, change["new"])


def means(protocol: str, name: str) -> bool:
    """Whether a value that was set under another protocol may stand under this one: it has a meaning there, or is neither shown nor used."""
    return name != "straddle" or protocol not in NO_BORDERS


def protocol_call(c: dict, seed: int, unknown: str = "digits") -> tuple[str, dict]:
    """The name of a protocol and the arguments that the controls' values ``c`` stand for; ``unknown`` is the set of the unknown images."""
    name, n = c["protocol"], int(c["per_shift"])
    given: dict = {"severity": c["severity"], "per_shift": n, "seed": seed}
    shifts = tuple(s for s in SHIFTS if s in c["shifts"])
    if name == "cyclic":
        given["groups"] = _grouped(shifts)
    else:
        given["shifts"] = shifts
    for knob in ("ratio", "exponent", "batch"):
        if applies(name, knob):
            given[knob] = three_digits(c[knob])
    if name in CLUMPED:
        given["order"] = clumps(three_digits(c["delta"]), "rotta" if name == "recurring" else "note")
    given[TIMES.get(name, "rounds")] = int(c["rounds"])
    if c["straddle"]:
        given["straddle"] = True
    if applies(name, "unknown_ratio") and (c["unknown_ratio"] or name == "open_set"):
        given |= {"unknown": unknown, "unknown_ratio": c["unknown_ratio"], "unknown_mode": c["unknown_mode"]}
    return name, given


def applies(protocol: str, name: str) -> bool:
    """Whether a control has a meaning for a protocol: arguments that it does not take are not offered."""
    if name in ("delta", "ratio", "exponent"):
        return name in inspect.signature(protocols.PROTOCOLS[protocol]).parameters
    if name == "batch":
        return protocol != "batch_of_one"
    return not (name in ("unknown_ratio", "unknown_mode") and protocol == "closed_set")


def stream_label(name: str, given: dict, known: str = "fashion_mnist", unknown: str = "digits") -> str:
    """A stream of `protocol_call` by its protocol and by what differs from a fresh panel's: "continual, severity 3, 50 a shift". ``known`` and
    ``unknown`` are the names of its sets."""
    usual = ByHand({"protocol": name})
    _, fresh = protocol_call({n: usual.value(n) for n in usual.usual} | {"protocol": name, "shifts": FIRST}, 0)
    times, said = TIMES.get(name, "rounds"), [name, *([known] if known != "fashion_mnist" else [])]
    said += [f"unknown {unknown}"] if "unknown" in given and unknown != "digits" else []
    words = {"severity": "severity {}", "per_shift": "{} a shift", "batch": "batches of {}", times: f"{{}} {times}", "ratio": "ratio {}",
             "exponent": "exponent {}", "order": "{}", "straddle": "batches over borders", "unknown_ratio": "{} unknown a known",
             "unknown_mode": "unknown in a {}", "seed": "seed {}", "shifts": "{}", "groups": "{}"}
    for key, value in given.items():
        if key in words and value != fresh.get(key):
            flat = [s for v in value for s in ([v] if isinstance(v, str) else v)] if key in ("shifts", "groups") else []
            said.append(words[key].format(f"delta {value.delta:g}" if hasattr(value, "delta") else type(value).__name__ if key == "order" else
                                          f"{value:g}" if isinstance(value, float) else ("+".join(flat) if len(flat) < 4 else f"{len(flat)} shifts")
                                          if flat else value))
    return ", ".join(said)


def some_shifts(given) -> tuple[str, ...]:
    """First values of the list of shifts. Raises ValueError for one that it does not have."""
    given = tuple(s.strip() for s in given.split(",") if s.strip()) if isinstance(given, str) else tuple(given)
    for name in given:
        if name not in SHIFTS:
            raise ValueError(f"shifts must be of {', '.join(SHIFTS)}, not {name!r}{arguments.nearest(name, SHIFTS)}")
    return given


def three_digits(value):
    """A number of a slider as one would write it."""
    return float(f"{value:.3g}") if isinstance(value, float) else value


def _grouped(shifts) -> tuple[tuple[str, ...], ...]:
    """The chosen shifts by group (noise, blur, weather, digital), the others as a group of their own."""
    groups = [tuple(s for s in shifts if s in members) for members in protocols.GROUPS.values()]
    rest = tuple(s for s in shifts if not any(s in members for members in protocols.GROUPS.values()))
    return tuple(group for group in (*groups, rest) if group)


def stream_knobs(settings: dict):
    """(knob, label) of every control but the shifts; ``settings`` loses what is used as a first value."""
    def checked(name, usual, choices=None):
        if name not in settings:
            return usual
        value = settings.pop(name)
        if choices is not None:
            if value not in choices:
                raise ValueError(f"{name} must be one of {', '.join(map(str, choices))}, not {value!r}{arguments.nearest(value, choices)}")
            return value
        kind = arguments.flag if isinstance(usual, bool) else arguments.whole if isinstance(usual, int) else arguments.number
        return kind(name, value)

    def knob(name, value, why, low=None, high=None, choices=None, unit="", paper=""):
        usual, value = value, checked(name, value, choices)
        return Knob(name, value, usual, low, high, False, choices, why, paper, unit)

    def known(part, name, low=None, high=None):
        found = narrow(next(k for k in own_knobs(part) if k.name == name), low, high)
        return Knob(**{**vars(found), "value": checked(name, float(found.value))})

    yield knob("protocol", "continual", "which images come when, and when the model is reset", choices=tuple(protocols.PROTOCOLS)), "protocol"
    yield knob("severity", 5.0, "of every shift", 0.0, 5.0, paper="1903.12261: 1 to 5"), "severity"
    yield knob("per_shift", 100, "known images of each shift", 10, 300, unit="images"), "images per shift"
    yield knob("batch", 25, "images that arrive together", 1, 200, unit="images"), "batch size"
    yield knob("rounds", 1, "how often the stream goes over all shifts", 1, 10, unit="rounds"), "rounds"
    yield known(Dirichlet(), "delta", 1e-2, 1e2), "delta (correlation)"
    yield known(LabelShift(), "ratio", 1.0, 1e6), "ratio (label shift)"
    yield known(ClassImbalance(), "exponent"), "exponent (Zipf)"
    yield knob("unknown_ratio", 0.0, "unknown images for each known one; handwritten digits, which are no class of the model", 0.0, 2.0,
               unit="unknown per known image"), "unknown / known"
    yield knob("unknown_mode", "batch", "unknown images after the known ones of every batch, shuffled in, or in one burst",
               choices=MIXING), "unknown come"
    yield knob("straddle", False, "batches may reach over the border of two shifts"), "batches reach over borders"
    step = narrow(find(make("tent", lr=settings.pop("lr", FAST.lr)), "lr"), 1e-4, 1e-1)
    yield Knob(**{**vars(step), "name": "lr"}), "learning rate"


def _empty_bars(go):
    """Error per domain, with nothing in it."""
    figure = go.Figure([go.Bar(x=[], y=[], name=label, marker={"color": look(number)["line"]["color"], "pattern": {"shape": shape}})
                        for label, number, shape in zip(METHODS.values(), LOOKS.values(), ("x", "", "/"), strict=True)])
    figure.update_layout(
        template="plotly_white", width=WIDTH, height=HEIGHT, font_size=FONT - 1, margin={"l": 60, "r": 10, "t": 32, "b": 50}, barmode="group",
        title={"text": "Error per domain", "font_size": FONT + 1, "x": 0.02, "y": 0.97}, showlegend=True,
        legend={"orientation": "h", "x": 1, "xanchor": "right", "y": 1.0, "yanchor": "bottom"})
    figure.update_yaxes(title={"text": "error, known (%)", "standoff": 4}, rangemode="tozero")
    figure.update_xaxes(title={"text": "domain", "standoff": 4}, automargin=True)
    return figure


