"""LiveFigure: a plotly figure that redraws itself in a panel whenever it is changed.

Plotly's own FigureWidget sends the whole plotting library (5 MB) along with every figure and gives
up, leaving the place blank, where a browser needs more than two seconds for it. Here the library
travels once a kernel, and figures wait for it.
"""
from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable
from contextlib import contextmanager

from ..plots import FONT, fit
from ..plots.theme import CHART
from .layout import BESIDE

LIBRARY = "export default { render() {} };"
VIEW = """
const TYPES = {
  f8: Float64Array, f4: Float32Array, i4: Int32Array, u4: Uint32Array, i2: Int16Array,
  u2: Uint16Array, i1: Int8Array, u1: Uint8Array,
};

// one-dimensional arrays that travel as base64; plotly reads the others itself
function open(value) {
  if (Array.isArray(value)) return value.map(open);
  if (value === null || typeof value !== "object") return value;
  if (value.bdata !== undefined && TYPES[value.dtype] && !String(value.shape ?? "").includes(",")) {
    const bytes = Uint8Array.from(atob(value.bdata), (c) => c.charCodeAt(0));
    return Array.from(new TYPES[value.dtype](bytes.buffer), (x) => Number.isNaN(x) ? null : x);
  }
  if (value.bdata !== undefined) return value;
  return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, open(v)]));
}

// dragging zooms and a double click goes back: most of plotly's buttons would only cover the titles
const LOOKS = {
  responsive: true, displaylogo: false, modeBarButtons: [["toImage"]],
};

async function plotly(model) {
  if (globalThis._ttaLabPlotly === undefined) globalThis._ttaLabPlotly = (async () => {
    const library = await model.widget_manager.get_model(model.get("library"));
    const module = { exports: {} };
    new Function("module", "exports", library.get("code"))(module, module.exports);
    return module.exports;
  })();
  try { return await globalThis._ttaLabPlotly; } catch (error) {
    globalThis._ttaLabPlotly = undefined;
    throw error;
  }
}

export default { render({ model, el }) {
  const figure = document.createElement("div"), note = document.createElement("i");
  figure.setAttribute("role", "img");
  figure.className = "CHART";
  figure.style.width = "100%";
  note.textContent = "of the previous run";
  el.append(figure, note);
  const age = () => {
    const old = model.get("old");
    figure.style.opacity = old ? "0.4" : "1";
    note.style.display = old ? "" : "none";
  };
  age();
  // a figure is as wide as its place, also after that has changed
  const wide = new ResizeObserver(() => {
    if (!over && el.clientWidth) globalThis._ttaLabPlotly?.then((P) => P.Plots.resize(figure));
  });
  let over = false, again = false, busy = false, listens = false;
  const draw = async () => {
    again = true;
    if (busy) return;
    busy = true;
    try {
      const P = await plotly(model);
      while (again && !over) {
        again = false;
        const { data, layout } = open(JSON.parse(model.get("spec")));
        figure.setAttribute("aria-label", model.get("label"));
        await P.react(figure, data, layout, LOOKS);
        if (!listens) wide.observe(el);
        if (!listens) figure.on("plotly_click", (e) => {
          model.send({ points: e.points.map((p) => [p.curveNumber, p.x, p.y]) });
        });
        listens = true;
      }
    } catch (error) {
      figure.textContent = "This figure could not be drawn: " + error;
    } finally { busy = false; }
  };
  model.on("change:spec", draw);
  model.on("change:old", age);
  draw();
  return () => {
    over = true;
    wide.disconnect();
    model.off("change:spec", draw);
    model.off("change:old", age);
    globalThis._ttaLabPlotly?.then((P) => P.purge(figure));
  };
} };
""".replace("CHART", CHART)


@functools.cache
def _kinds():
    """The two widgets; made at first use, for anywidget is not needed without panels."""
    import anywidget
    import traitlets

    class Library(anywidget.AnyWidget):
        _esm = LIBRARY
        code = traitlets.Unicode().tag(sync=True)

    class Drawing(anywidget.AnyWidget):
        _esm = VIEW
        spec = traitlets.Unicode('{"data": [], "layout": {}}').tag(sync=True)
        label = traitlets.Unicode("figure").tag(sync=True)
        library = traitlets.Unicode().tag(sync=True)
        old = traitlets.Bool(False).tag(sync=True)  # of the previous run: pale, and said so

    return Library, Drawing


@functools.cache
def _library():
    from plotly.offline import get_plotlyjs

    return _kinds()[0](code=get_plotlyjs())


def _figure_class():
    import plotly.graph_objects as go

    class LiveFigure(go.Figure):
        """A `plotly.graph_objects.Figure` with a ``widget``. Changes made inside ``with
        figure.batch_update():`` are drawn when it ends."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.__dict__["_view"] = _kinds()[1](library=_library().model_id)
            self._send()

        @property
        def widget(self):
            """The widget that draws the figure."""
            return self._view

        @contextmanager
        def batch_update(self):
            with super().batch_update():
                yield
            self._send()

        def on_click(self, callback: Callable) -> None:
            """Call ``callback(trace, x, y)`` when a point of a trace is clicked."""
            self._view.on_msg(
                lambda widget, content, buffers:
                [callback(self.data[curve], x, y) for curve, x, y in content["points"][:1]])

        def _send(self):
            title = (self.layout.title.text
                     or ", ".join(t.text or "" for t in self.layout.annotations) or "figure")
            with self._view.hold_sync():
                self._view.label = re.sub(r"<[^>]*>", " ", str(title))
                self._view.spec = json.dumps(_as_wide_as_its_place(json.loads(self.to_json())))
                self._view.old = False

    return LiveFigure


def _as_wide_as_its_place(spec: dict) -> dict:
    spec["layout"].pop("width", None)
    spec["layout"]["autosize"] = True
    return spec


_live_figure = functools.cache(_figure_class)


def live_figure(figure=None, interactive: bool = True):
    """A copy of a plotly figure: one that redraws itself in a panel, or, with ``interactive`` off,
    a plain one."""
    import plotly.graph_objects as go

    return (_live_figure() if interactive else go.Figure)(figure)


def empty_figure(traces, title: str, x: str, y: str, size: tuple[int, int], bottom: int, **layout):
    """A plotly figure of some curves or bars under a title, with room below for ``bottom``
    pixels."""
    import plotly.graph_objects as go

    figure = go.Figure(traces)
    figure.update_layout(
        template="plotly_white", width=size[0], height=size[1], font_size=FONT - 1,
        margin={"l": 58, "r": 10, "t": 32, "b": bottom}, showlegend=True,
        title={"text": title, "font_size": FONT + 1, "x": 0.02, "y": 0.97}, **layout)
    figure.update_xaxes(title={"text": x, "standoff": 4})
    figure.update_yaxes(title={"text": y, "standoff": 4})
    return figure


def show(figure, drawn) -> None:
    """Put what was drawn in place of what a live figure shows."""
    with figure.batch_update():
        figure.data = ()
        figure.add_traces(drawn.data)
        figure.layout = drawn.layout


def sized(drawn, height: int, width: int = BESIDE):
    """A plotly figure in the size and with the letters of a panel, fitted to ``width`` pixels."""
    drawn.update_layout(font_size=FONT - 1).update_annotations(font_size=FONT)
    if width <= BESIDE:
        _apart(drawn)
    return fit(drawn, width, height)


def _apart(drawn) -> None:
    """More room between two axes beside each other, for the name of the right one."""
    axes = list(drawn.select_xaxes())
    starts = [axis.domain[0] for axis in axes if axis.domain]
    if len(starts) != 2 or len(axes) != 2 or not 0.5 < starts[1] < 0.59:
        return
    for axis, domain in zip(axes, ((0, 0.41), (0.59, 1)), strict=True):
        old = sum(axis.domain) / 2
        axis.domain = domain
        for text in drawn.layout.annotations:
            if text.xref == "paper" and abs(text.x - old) < 1e-6:
                text.x = sum(domain) / 2
