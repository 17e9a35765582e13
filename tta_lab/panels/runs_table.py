"""RunsTable: the table of kept runs in a panel: tick, sort, filter, rename, delete, save, load.

The state lies in Python; the page shows it and sends back what was clicked, so that everything can
be done without a browser too.
"""
from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable, Iterable
from pathlib import Path

from ..experiments.kept_runs import KeptRuns, NotAllLoaded
from ..plots import look
from ..studies.explorer.page import write_report

COLUMNS = {  # of the table: title, whether it is a number, from which width (pixels) it is shown
    "name": ("name", False, 0), "model": ("model", False, 0), "stream": ("stream", False, 0),
    "method": ("method", False, 0), "seed": ("seed", True, 0), "error": ("error (%)", True, 0),
    "error of source": ("source (%)", True, 900), "error of BN-1": ("BN-1 (%)", True, 900),
    "like source": ("like source (%)", True, 0), "like BN-1": ("like BN-1 (%)", True, 900),
    "alarm": ("alarm", False, 0), "ms_per_image": ("ms an image", True, 0)}
WITHOUT = ("like source", "like BN-1")  # shown when a run has no labels
STYLE = """
.tta-runs { container-type: inline-size; font-size: 12px; line-height: 1.3; max-width: 100%;
  color: var(--jp-ui-font-color1, inherit); }
.tta-runs .bar { display: flex; flex-wrap: wrap; gap: 3px; align-items: center; }
.tta-runs input:not([type=checkbox]), .tta-runs button { font: inherit; color: inherit;
  background: var(--jp-layout-color1, transparent); padding: 1px 6px; border-radius: 2px;
  border: 1px solid var(--jp-border-color1, #999); }
.tta-runs input.find { width: 82px; } .tta-runs input.folder { width: 92px; flex: 1 1 92px;
  max-width: 220px; }
.tta-runs button { cursor: pointer; }
.tta-runs button:disabled { opacity: 0.5; cursor: default; }
.tta-runs .sure { font-weight: 700; border-width: 2px; }
.tta-runs :focus-visible { outline: 2px solid var(--jp-brand-color1, #1976d2);
  outline-offset: -1px; }
.tta-runs .scroll { max-height: 104px; overflow: auto; margin-top: 2px;
  border: 1px solid var(--jp-border-color2, #bbb); }
.tta-runs table { border-collapse: collapse; width: 100%; margin: 0; font-size: 12px; }
.tta-runs th { position: sticky; top: 0; z-index: 1; padding: 0; white-space: nowrap;
  background: var(--jp-layout-color2, #eee); }
.tta-runs th button { border: 0; background: transparent; font-weight: 600; width: 100%;
  text-align: inherit; padding: 1px 5px; }
.tta-runs td { padding: 0 5px; white-space: nowrap; max-width: 170px; overflow: hidden;
  text-overflow: ellipsis; text-align: left; }
.tta-runs .n, .tta-runs .n button { text-align: right; }
.tta-runs tbody tr { cursor: pointer; background: none; }
.tta-runs tbody tr:hover { background: var(--jp-layout-color2, #eee); }
.tta-runs tr[aria-current] { box-shadow: inset 3px 0 var(--jp-brand-color1, #1976d2);
  font-weight: 600; }
.tta-runs td.name button { border: 0; background: transparent; padding: 0 2px; text-align: left;
  max-width: 150px; overflow: hidden; text-overflow: ellipsis; vertical-align: bottom;
  font-weight: inherit; }
.tta-runs td.tick { padding-right: 0; } .tta-runs td.tick > * { vertical-align: middle; }
.tta-runs .tick input { margin: 0 2px 0 0; }
.tta-runs .say { min-height: 15px; } .tta-runs .say.wrong::before { content: "⚠ "; }
"""
VIEW = """
const DASHES = { solid: "", dash: "6 3", dot: "1.5 2.5", dashdot: "6 2 1.5 2",
                 longdashdot: "7 2 1.5 2 1.5 2" };
const MARKS = { circle: "M13 2.5a2.5 2.5 0 1 0 .01 0z", square: "M10.7 2.7h4.6v4.6h-4.6z",
  "triangle-up": "M13 2l3 5.4h-6z", diamond: "M13 1.6l3.4 3.4l-3.4 3.4l-3.4-3.4z",
  "triangle-down": "M13 8l3-5.4h-6z", x: "M10.5 2.5l5 5m0-5l-5 5",
  cross: "M13 1.8v6.4m-3.2-3.2h6.4" };
const make = (tag, into, values = {}) => {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(values)) {
    if (k === "text") e.textContent = v; else if (k.startsWith("on")) e[k] = v;
    else if (v !== false && v !== null) e.setAttribute(k, v === true ? "" : v);
  }
  into?.append(e);
  return e;
};
const curve = (look) => {
  const ns = "http://www.w3.org/2000/svg", svg = document.createElementNS(ns, "svg");
  for (const [k, v] of Object.entries({ width: 26, height: 10, role: "img",
    "aria-label": `curve: ${look.dash} line, ${look.marker}` })) svg.setAttribute(k, v);
  const color = look.color === "#000000" ? "currentColor" : look.color;
  for (const [d, extra] of [["M0 5h26", { "stroke-dasharray": DASHES[look.dash] ?? "" }],
                            [MARKS[look.marker] ?? MARKS.circle, {}]]) {
    const path = document.createElementNS(ns, "path");
    const solid = d !== "M0 5h26" && !["x", "cross"].includes(look.marker);
    for (const [k, v] of Object.entries({ d, stroke: color, "stroke-width": 2,
      fill: solid ? color : "none", ...extra })) path.setAttribute(k, v);
    svg.append(path);
  }
  return svg;
};

export default { render({ model, el }) {
  const root = make("div", el, { class: "tta-runs", "data-lm-suppress-shortcuts": "true" });
  const send = (does, rest = {}) => model.send({ does, ...rest });
  const bar = make("div", root, { class: "bar", role: "toolbar", "aria-label": "runs" });
  const find = make("input", bar, { class: "find", type: "search", placeholder: "filter",
    "aria-label": "filter the runs", oninput: () => send("filter", { text: find.value }) });
  const tool = (text, label, onclick) => make("button", bar, { text, "aria-label": label,
    title: label, type: "button", onclick });
  let editing = null, asked = 0;
  const rename = tool("Rename", "rename the run that is shown (F2)", () => edit(state().current));
  const remove = tool("Delete", "delete the ticked runs", () => {
    if (!asked) { asked = state().ticked.length; return draw(); }
    asked = 0; send("delete");
  });
  const calm = () => { if (asked) { asked = 0; draw(); } };
  remove.onblur = calm;
  remove.onkeydown = (e) => { if (e.key === "Escape") calm(); };
  const folder = make("input", bar, { class: "folder", type: "text",
    "aria-label": "folder to save runs to and load them from",
    oninput: () => send("folder", { text: folder.value }) });
  const at = () => ({ place: folder.value });
  tool("Save", "save the ticked runs (all, where none is ticked) to the folder",
       () => send("save", at()));
  tool("Load", "load all runs of the folder", () => send("load", at()));
  tool("CSV", "write the table to runs.csv in the folder", () => send("csv", at()));
  const scroll = make("div", root, { class: "scroll", tabindex: "-1" });
  const table = make("table", scroll, { "aria-label": "runs" });
  const note = make("div", root, { class: "say", role: "status" });
  const widths = make("style", root);
  const state = () => model.get("state");

  const edit = (number) => {
    if (number === null || number === undefined) return;
    editing = number; draw();
    const field = table.querySelector("input.new");
    field?.focus(); field?.select();
  };
  const end = (number, name) => {
    if (editing === null) return;
    editing = null;
    if (name !== null) send("rename", { number, name });
    draw();
    table.querySelector(`[data-key="name-${number}"]`)?.focus();
  };
  const step = (e) => {
    if (e.key === "F2") { e.preventDefault(); return edit(Number(e.target.dataset.number)); }
    const all = [...table.querySelectorAll(`[data-kind="${e.target.dataset.kind}"]`)];
    const by = { ArrowDown: 1, ArrowUp: -1 }[e.key];
    const next = by && all[all.indexOf(e.target) + by];
    if (by) e.preventDefault();
    next?.focus();
  };

  const draw = () => {
    const s = state(), key = document.activeElement?.dataset?.key;
    const typed = editing !== null && table.querySelector("input.new")?.value;
    const held = editing; editing = null; // a field that is taken away loses the focus, no more
    const from = scroll.scrollTop;
    table.replaceChildren();
    editing = held;
    const head = make("tr", make("thead", table));
    const all = s.rows.length > 0 && s.rows.every((r) => s.ticked.includes(r.number));
    const every = make("input", make("th", head, { class: "tick", scope: "col" }), {
      type: "checkbox", "aria-label": "tick all runs that are listed", "data-key": "all",
      onchange: () => send("all", { on: every.checked }) });
    every.checked = all;
    s.columns.forEach((c, i) => {
      const sorted = s.sort[0] === c.name ? (s.sort[1] ? "descending" : "ascending") : "none";
      const th = make("th", head, { scope: "col", "aria-sort": sorted,
        class: `${c.number ? "n" : ""} c${i}` });
      make("button", th, { type: "button", "data-key": `head-${c.name}`, title: "sort",
        text: c.title + { ascending: " ▲", descending: " ▼", none: "" }[sorted],
        onclick: () => send("sort", { column: c.name }) });
    });
    const body = make("tbody", table);
    for (const r of s.rows) {
      const n = r.number, on = s.ticked.includes(n);
      const tr = make("tr", body, { "aria-current": n === s.current ? "true" : null,
        onclick: (e) => { if (!e.target.closest("input, button")) send("open", { number: n }); } });
      const cell = make("td", tr, { class: "tick" });
      const box = make("input", cell, { type: "checkbox", "aria-label": `draw ${r.cells[0]}`,
        "data-key": `tick-${n}`, "data-kind": "tick", "data-number": n, onkeydown: step,
        onchange: () => send("tick", { number: n, on: box.checked }) });
      box.checked = on;
      if (on && s.looks[n]) cell.append(curve(s.looks[n]));
      r.cells.forEach((text, i) => {
        const td = make("td", tr, { class: `${s.columns[i].number ? "n" : ""} c${i}` + (i ? ""
          : " name"), title: i ? text : r.stored || text, ...(i ? { text } : {}) });
        if (i) return;
        if (n === editing) {
          const field = make("input", td, { class: "new", type: "text", maxlength: "80",
            "aria-label": `new name of ${text}`, "data-key": `new-${n}`,
            onblur: () => { if (editing === n) end(n, null); }, onkeydown: (e) => {
              e.stopPropagation();
              if (e.key === "Enter") end(n, field.value);
              if (e.key === "Escape") end(n, null);
            } });
          field.value = typed || text;
        } else make("button", td, { type: "button", text, "data-key": `name-${n}`,
          "data-kind": "name", "data-number": n, onkeydown: step,
          "aria-label": `show ${text}`, ondblclick: () => edit(n),
          onclick: () => send("open", { number: n }) });
      });
    }
    if (!s.rows.length) make("td", make("tr", body), { text: s.empty,
      colspan: s.columns.length + 1 });
    scroll.scrollTop = from;
    widths.textContent = s.columns.map((c, i) => c.from ? `@container (max-width: ${c.from}px) `
      + `{ .tta-runs .c${i} { display: none; } }` : "").join("");
    const many = s.ticked.length;
    if (asked && asked !== many) asked = 0;
    remove.textContent = asked ? `Delete ${asked} run${asked > 1 ? "s" : ""}?` : "Delete";
    remove.classList.toggle("sure", asked > 0);
    remove.setAttribute("aria-label", asked ? `${remove.textContent} Press again to delete, `
      + "Escape to keep" : "delete the ticked runs");
    remove.disabled = !many;
    rename.disabled = s.current === null;
    if (document.activeElement !== find) find.value = s.filter;
    if (document.activeElement !== folder) folder.value = s.folder;
    note.textContent = s.say;
    note.classList.toggle("wrong", s.wrong);
    if (key && document.activeElement?.dataset?.key !== key)
      table.querySelector(`[data-key="${CSS.escape(key)}"]`)?.focus();
  };
  model.on("change:state", draw);
  draw();
  return () => model.off("change:state", draw);
} };
"""


@functools.cache
def _kind():
    import anywidget
    import traitlets

    class Table(anywidget.AnyWidget):
        _esm = VIEW
        _css = STYLE
        state = traitlets.Dict().tag(sync=True)

    return Table


class RunsTable:
    """The table of ``runs``, with ``changed()`` called after the ticks or the runs have changed by
    hand (not by setting ``ticked`` or ``current``).

    ``ticked``: numbers of the runs whose curves are drawn; ``current``: the run that is shown, or
    None. ``message`` is what was said last, ``wrong`` whether it is an error. What is done by hand
    says errors there; the methods raise them.
    """

    def __init__(self, runs: KeptRuns, changed: Callable[[], None] = lambda: None,
                 folder: str | Path = "runs/kept"):
        self.runs = runs
        self.changed = changed
        self.folder = str(folder)
        self.message, self.wrong = "", False
        self.running: int | None = None  # the run that goes on: it stays
        self.sort: tuple[str, bool] = ("", False)  # column, reversed
        self.wanted = ""
        self._ticked: list[int] = []
        self._current: int | None = None
        self._looks: dict[int, dict] = {}
        self._open: list[Callable[[int], None]] = []

    # --- reports

    def report(self) -> str:
        """Write the ticked runs that have seen images as one page beside the saved runs, under a
        name that no file has; what is said of it."""
        runs = [self.runs[n] for n in self.ticked if len(self.runs[n].trace)]
        if not runs:
            return "There is no run to report: press Run first, or tick a run of the table."
        folder = Path(self.folder).expanduser()
        try:
            path = write_report(runs, next(
                place for i in itertools.count(1)
                if not (place := folder / f"report_{i}.html").exists()))
        except (OSError, ValueError) as why:
            return (f"The report was not written to {folder}: {why}. Name another folder in the "
                    "field above the table.")
        return (f"Wrote {path}: one page for readers without Jupyter, of "
                f"{', '.join(run.name for run in runs)}.")

    # --- what is shown

    @functools.cached_property
    def widget(self):
        """The table as a widget."""
        widget = _kind()(state=self.state())
        widget.on_msg(lambda _, content, buffers: self.do(content))
        return widget

    def refresh(self, looks: dict | None = None) -> None:
        """Show what is so now; ``looks``: number of a run -> number of its look in figures
        (`tta_lab.plots.look`), or what that function hands back."""
        if looks is not None:
            self._looks = {n: _look(value) for n, value in looks.items()}
        if "widget" in self.__dict__:
            self.widget.state = self.state()

    def state(self) -> dict:
        """All that the page shows, as plain values."""
        columns = self.columns()
        return {"columns": [{"name": c, "title": COLUMNS[c][0], "number": COLUMNS[c][1],
                             "from": COLUMNS[c][2]} for c in columns],
                "rows": [{"number": r["run"], "stored": self.runs[r["run"]].stored,
                          "cells": [cell(r, c) for c in columns]} for r in self.listed()],
                "ticked": self.ticked, "current": self.current, "sort": list(self.sort),
                "filter": self.wanted, "folder": self.folder, "say": self.message,
                "wrong": self.wrong, "looks": {str(n): v for n, v in self._looks.items()},
                "empty": f"No run has {self.wanted!r}." if self.runs and self.wanted
                else "No run yet."}

    def columns(self) -> list[str]:
        """The columns that any run has a value for; those of runs without labels where there is
        one."""
        rows = self.runs.rows()
        bare = any(r.get("labelled") is False for r in rows)
        return [c for c in COLUMNS if (bare if c in WITHOUT else True)
                and (c in ("name", "method", "error", "alarm") or
                     any(not _lacks(r.get(c)) for r in rows))]

    def listed(self) -> list[dict]:
        """The rows that the filter lets through, sorted; without a value last."""
        columns = self.columns()
        text = self.wanted.casefold()
        rows = [r for r in self.runs.rows()
                if any(text in cell(r, c).casefold() for c in columns)]
        column, backwards = self.sort
        if column not in columns:
            return rows
        some = [r for r in rows if not _lacks(r.get(column))]
        some.sort(key=lambda r: _order(r[column]), reverse=backwards)
        return some + [r for r in rows if _lacks(r.get(column))]

    @property
    def ticked(self) -> list[int]:
        """Numbers of the ticked runs, in their order."""
        return [n for n in self.runs if n in self._ticked]

    @ticked.setter
    def ticked(self, numbers: Iterable[int]) -> None:
        self._ticked = [self._known(n) for n in numbers]
        self.refresh()

    @property
    def current(self) -> int | None:
        """Number of the run that is shown, or None."""
        return self._current if self._current in self.runs else None

    @current.setter
    def current(self, number: int | None) -> None:
        self._current = None if number is None else self._known(number)
        self.refresh()

    def _known(self, number: int) -> int:
        if number not in self.runs:
            raise ValueError(f"there is no run {number!r}; there are: "
                             f"{', '.join(map(str, self.runs)) or 'none'}")
        return number

    # --- what is done

    def on_open(self, callback: Callable[[int], None]) -> None:
        """Call ``callback(number)`` when a run is opened."""
        self._open.append(callback)

    def open(self, number: int) -> None:
        """Show a run, as a click on its row does. Raises ValueError while another one runs."""
        if self.running is not None:
            raise ValueError("A run is going on, and it is shown: press Stop first.")
        self.current = number
        for callback in self._open:
            callback(number)

    def tick(self, number: int, on: bool = True) -> None:
        """Draw the curve of a run, or no more."""
        others = [n for n in self._ticked if n != self._known(number)]
        self.ticked = [n for n in others if n in self.runs] + [number] * bool(on)
        self.changed()

    def tick_listed(self, on: bool = True) -> None:
        """Tick all runs that the filter lets through, or none of them."""
        listed = [r["run"] for r in self.listed()]
        self.ticked = [n for n in self.ticked if n not in listed] + listed * bool(on)
        self.changed()

    def sort_by(self, column: str) -> None:
        """Sort by a column; again: the other way round. Raises ValueError for another column."""
        if column not in self.columns():
            raise ValueError(f"there is no column {column!r}; there are: "
                             f"{', '.join(self.columns())}")
        self.sort = column, self.sort == (column, False)
        self.refresh()

    def filter(self, text: str) -> None:
        """List only runs with this text in a cell, in small or capital letters."""
        self.wanted = str(text).strip()
        self.refresh()

    def rename(self, number: int, name: str) -> None:
        """Call a run otherwise; errors are those of `KeptRuns.rename`."""
        self.runs.rename(number, name)
        self.say(f"Run {number} is called {self.runs[number].name}.")
        self.changed()

    def delete_ticked(self) -> None:
        """Forget the ticked runs; files stay. Raises ValueError while one of them runs."""
        numbers = self.ticked
        if self.running in numbers:
            raise ValueError(f"{self.runs[self.running].name} is still running: press Stop first, "
                             "or take its tick away.")
        self.runs.delete(numbers)
        self._ticked = []
        self.say(f"{_runs(len(numbers))} deleted; files of them stay.")
        self.changed()

    def save_to(self, folder: str | Path | None = None) -> list[Path]:
        """Save the ticked runs, all where none is ticked; errors are those of `KeptRuns.save`."""
        folder = self._place(folder)
        paths = self.runs.save(folder, self.ticked or None)
        bare = [n for n in self.ticked or self.runs if self.runs[n].choice is None or
                not isinstance(self.runs[n].choice.model, str)]
        self.say(f"{_runs(len(paths))} saved to {Path(folder).resolve()}."
                 + (" Of a model of your own numbers and curves are saved, not the model." if bare
                    else ""))
        return paths

    def load_from(self, folder: str | Path | None = None) -> list[int]:
        """Load all runs of a folder and tick them; errors are those of `KeptRuns.load`."""
        folder = self._place(folder)
        before = set(self.runs)
        try:
            numbers = self.runs.load(folder)
        except NotAllLoaded as why:
            self._loaded(why.loaded)
            raise
        new = len(set(self.runs) - before)
        self.say(f"{_runs(new)} loaded from {Path(folder).resolve()}."
                 + (f" Here already: {_runs(len(numbers) - new)}." if new < len(numbers) else ""))
        self._loaded(numbers)
        return numbers

    def _loaded(self, numbers: list[int]) -> None:
        self.ticked = dict.fromkeys([*self.ticked, *numbers])
        if numbers:
            self.changed()

    def write_csv(self, place: str | Path | None = None) -> Path:
        """Write the ticked rows, all where none is ticked, to a ``.csv`` file, or to ``runs.csv``
        in a folder."""
        place = Path(self._place(place))
        path = place if place.suffix == ".csv" else place / "runs.csv"
        self.runs.write_csv(path, self.ticked or None)
        self.say(f"Table written to {path.resolve()}.")
        return path

    def _place(self, folder) -> str:
        self.folder = str(folder or self.folder)
        return str(Path(self.folder).expanduser())

    def say(self, text: str, wrong: bool = False) -> None:
        """Show a message below the table."""
        self.message, self.wrong = text, wrong
        self.refresh()

    def do(self, event: dict) -> None:
        """What was done on the page: ``does`` and what belongs to it. Errors are said below the
        table."""
        acts = {"tick": lambda e: self.tick(e["number"], e["on"]),
                "all": lambda e: self.tick_listed(e["on"]),
                "open": lambda e: self.open(e["number"]),
                "sort": lambda e: self.sort_by(e["column"]),
                "filter": lambda e: self.filter(e["text"]),
                "rename": lambda e: self.rename(e["number"], e["name"]),
                "delete": lambda e: self.delete_ticked(),
                "folder": lambda e: self._place(e["text"]),
                "save": lambda e: self.save_to(e["place"]),
                "load": lambda e: self.load_from(e["place"]),
                "csv": lambda e: self.write_csv(e["place"])}
        try:
            acts[event["does"]](event)
        except (ValueError, OSError) as why:
            self.say(str(why), wrong=True)


def cell(row: dict, column: str) -> str:
    """The text of a cell."""
    value = row.get(column)
    if _lacks(value):
        return "no labels" if column == "error" and row.get("labelled") is False else "-"
    if isinstance(value, float):
        value = f"{value:.{2 if column == 'ms_per_image' else 1}f}"
    if column == "error" and row.get("complete") is False:
        value = f"{value} (first {row.get('images', '?')})"
    text = str(value)
    return text.replace("_", " ") if column in ("model", "stream", "alarm") else text


def _lacks(value) -> bool:
    return value is None or value == "" or (isinstance(value, float) and not math.isfinite(value))


def _order(value) -> tuple:
    """Numbers by size, before texts; runs named 2 and 10 in this order are texts."""
    return (0, value, "") if isinstance(value, int | float) else (1, 0, str(value).casefold())


def _look(value) -> dict:
    found = look(value) if isinstance(value, int) else value
    return {"color": found["line"]["color"], "dash": found["line"]["dash"],
            "marker": found["marker"]["symbol"]}


def _runs(count: int) -> str:
    return f"{count} run{'' if count == 1 else 's'}"
