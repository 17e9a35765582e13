"""FigureFrame: the picture of a figure in a panel, with the values under the pointer.

The picture is there at once; moving over it, or the arrow keys once it has the focus, tells the
values of the nearest point; a click, or Enter, is told to Python with the panel and the place in
its own units, so that a view can answer with the images behind the number.
"""
from __future__ import annotations

import base64
import functools
import json
from collections.abc import Callable

from ..plots import png
from ..plots.places import places

VIEW = """
const near = (xs, x) => {
  let best = -1;
  xs.forEach((v, i) => { if (v !== null && (best < 0 || Math.abs(v - x) < Math.abs(xs[best] - x))) best = i; });
  return best;
};
const cell = (edges, v) => edges.findIndex((e, i) => i + 1 < edges.length
  && v >= Math.min(e, edges[i + 1]) && v <= Math.max(e, edges[i + 1]));
const say = (v, percent) => v === null ? "none" : percent ? `${(100 * v).toFixed(1)} %` : `${+v.toPrecision(4)}`;

function told(place, x, y) {
  if (place.empty) return [];
  const lines = [];
  if (place.edges) {
    const i = cell(place.edges[0], x), j = cell(place.edges[1], y);
    if (i < 0 || j < 0) return [];
    const column = place.columns.length ? place.columns[i] : `${place.name} ${+place.edges[0][i].toPrecision(5)}`;
    const row = place.rows.length ? place.rows[j] : `${+place.edges[1][j].toPrecision(3)}`;
    lines.push(`${row}, ${column}`, `${place.what}: ${say(place.values[j][i], place.percent)}`);
  }
  let at = null;
  for (const s of place.series) {
    const i = near(s.x, x);
    if (i < 0) continue;
    if (at === null) at = place.columns?.length && !place.edges ? place.columns[s.x[i]] ?? "" : `${place.name} ${+s.x[i].toPrecision(5)}`;
    lines.push(`${s.name || "value"}: ${say(s.y[i], place.percent)}`);
  }
  return at === null || place.edges ? lines : [at, ...lines];
}

export default { render({ model, el }) {
  const box = document.createElement("div"), img = document.createElement("img");
  const mark = document.createElement("div"), tip = document.createElement("div"), note = document.createElement("i");
  box.className = "tta-frame"; box.setAttribute("data-lm-suppress-shortcuts", "true"); box.tabIndex = 0; box.setAttribute("role", "group");
  img.className = "tta-figure"; img.draggable = false;
  mark.className = "tta-mark"; tip.className = "tta-tip"; tip.setAttribute("role", "status");
  note.textContent = "of the previous run";
  box.append(img, mark, tip);
  el.append(box, note);
  let spots = [], at = null;   // at: [panel, x, y] of the keyboard
  const draw = () => {
    img.src = model.get("src"); img.alt = model.get("label");
    img.style.width = `min(100%, ${model.get("width")}px)`;
    box.setAttribute("aria-label", model.get("label")
      + ". Arrow keys tell the values" + (model.get("opens") ? ", Enter opens the images." : "."));
    spots = JSON.parse(model.get("spots"));
    box.style.cursor = model.get("opens") ? "pointer" : "default";
    hide();
  };
  const age = () => {
    box.style.opacity = model.get("old") ? "0.4" : "1";
    note.style.display = model.get("old") ? "" : "none";
  };
  const hide = () => { tip.style.display = mark.style.display = "none"; };
  const inside = (p) => (fx, fy) => fx >= p.box[0] && fx <= p.box[0] + p.box[2] && fy >= p.box[1] && fy <= p.box[1] + p.box[3];
  const value = (p, fx, fy) => {
    const u = (fx - p.box[0]) / p.box[2], v = 1 - (fy - p.box[1]) / p.box[3];
    const y = p.log ? Math.exp(Math.log(p.y[0]) + v * Math.log(p.y[1] / p.y[0])) : p.y[0] + v * (p.y[1] - p.y[0]);
    return [p.x[0] + u * (p.x[1] - p.x[0]), y];
  };
  const show = (i, x, y, keys) => {
    const p = spots[i], lines = told(p, x, y);
    if (!lines.length) { hide(); return; }
    tip.replaceChildren(...lines.map((text, k) => {
      const line = document.createElement(k ? "div" : "b"); line.textContent = text; return line; }));
    const u = p.box[0] + p.box[2] * (x - p.x[0]) / (p.x[1] - p.x[0]);
    const w = img.clientWidth, h = img.clientHeight;
    tip.style.display = mark.style.display = "";
    Object.assign(mark.style, { left: `${u * w}px`, top: `${p.box[1] * h}px`, height: `${p.box[3] * h}px` });
    const left = u * w > w / 2 ? u * w - tip.offsetWidth - 10 : u * w + 10;
    Object.assign(tip.style, { left: `${Math.max(0, left)}px`, top: `${p.box[1] * h + 4}px` });
    if (keys) at = [i, x, y];
  };
  const where = (e) => {
    const r = img.getBoundingClientRect();
    const fx = (e.clientX - r.left) / r.width, fy = (e.clientY - r.top) / r.height;
    const i = spots.findIndex((p) => inside(p)(fx, fy));
    return i < 0 ? null : [i, ...value(spots[i], fx, fy)];
  };
  const send = ([panel, x, y]) => { if (!spots[panel].empty) model.send({ panel, x, y }); };
  box.addEventListener("mousemove", (e) => { const w = where(e); w ? show(...w) : hide(); });
  box.addEventListener("mouseleave", hide);
  box.addEventListener("blur", hide);
  box.addEventListener("click", (e) => { const w = where(e); if (w) { at = w; send(w); } });
  const steps = (p, which) => p.edges
    ? p.edges[which].slice(1).map((e, i) => (e + p.edges[which][i]) / 2)
    : which ? [0] : p.series.length ? p.series[0].x.filter((v) => v !== null) : [];
  box.addEventListener("keydown", (e) => {
    const turn = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [1, -1], ArrowDown: [1, 1] }[e.key];
    if (e.key === "Enter" && at) { send(at); e.preventDefault(); e.stopPropagation(); return; }
    if (!turn || !spots.length) return;
    e.preventDefault(); e.stopPropagation();
    if (!at || at[0] >= spots.length) at = [Math.max(0, spots.findIndex((p) => !p.empty)), -Infinity, 0];
    let [i, x, y] = at;
    const p = spots[i], xs = steps(p, 0), ys = steps(p, 1);
    if (turn[0] && ys.length > 1) y = ys[Math.min(ys.length - 1, Math.max(0, near(ys, y) + turn[1]))];
    else if (turn[0]) { i = (i + turn[1] + spots.length) % spots.length; x = spots[i].x[0]; }
    else {
      const k = Number.isFinite(x) ? near(xs, x) + turn[1] : 0;
      if (k >= xs.length && i + 1 < spots.length) { i += 1; x = steps(spots[i], 0)[0] ?? 0; }
      else if (k < 0 && i > 0) { i -= 1; x = steps(spots[i], 0).at(-1) ?? 0; }
      else x = xs[Math.min(xs.length - 1, Math.max(0, k))] ?? 0;
    }
    at = [i, x, y];
    show(i, x, y, true);
  });
  model.on("change:src", draw); model.on("change:old", age);
  draw(); age();
  return () => { model.off("change:src", draw); model.off("change:old", age); };
} };
"""  # noqa: E501


@functools.cache
def _frame_class():
    import anywidget
    import traitlets

    class FigureFrame(anywidget.AnyWidget):
        _esm = VIEW
        src = traitlets.Unicode().tag(sync=True)
        label = traitlets.Unicode("figure").tag(sync=True)
        width = traitlets.Int(820).tag(sync=True)   # pixels at most
        spots = traitlets.Unicode("[]").tag(sync=True)
        opens = traitlets.Bool(False).tag(sync=True)  # whether a click is answered
        old = traitlets.Bool(False).tag(sync=True)    # of the previous run: pale, and said so

        def show(self, figure, label: str, width: int) -> None:
            """Show a matplotlib figure, ``width`` pixels wide at most."""
            content = base64.b64encode(png(figure)).decode()
            with self.hold_sync():
                self.label = label
                self.width = width
                self.spots = json.dumps(places(figure))
                self.old = False
                self.src = f"data:image/png;base64,{content}"

        def on_point(self, callback: Callable) -> None:
            """Call ``callback(panel, x, y)`` when a place of the figure is clicked."""
            self.opens = True
            self.on_msg(lambda _, content, buffers:
                        callback(int(content["panel"]), float(content["x"]), float(content["y"])))

    return FigureFrame


def figure_frame():
    """An empty frame for a figure: ``show(figure, label, width)``, ``on_point(callback)``, ``old``
    for what belongs to the previous run."""
    return _frame_class()()
