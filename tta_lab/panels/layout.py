"""What panels are laid out with: HTML of one width, boxes, pictures, and the keys of lists."""
from __future__ import annotations

import base64
import html

from ..plots import png
from ..plots.theme import CHART, STYLE

WIDTH = 820  # beside JupyterLab's file list on a screen of 1280 x 720
BESIDE = 530  # of that, what stands at the right of the controls
# Panels: controls at the left, what they do at the right, each with a scroll bar of its own, so
# that both stay in sight; below each other where there is no room (a window of 800 pixels).
BENCH = """
.tta-house { container-type: inline-size; width: 100%; overflow: visible; }
.tta-bench { display: grid !important; grid-template-columns: minmax(270px, 310px) minmax(0, 1fr);
  gap: 0 14px; align-items: start; overflow: visible; }
.tta-left, .tta-right { height: calc(100vh - 142px); min-height: 430px; overflow-y: auto;
  overflow-x: hidden; min-width: 0; }
.tta-left > *, .tta-right > * { flex-shrink: 0; max-width: 100%; }
.tta-left { border-right: 1px solid var(--jp-border-color2, #bbb); padding-right: 6px; }
.tta-left .widget-readout { min-width: 50px; }
.tta-bench input[type=checkbox] { accent-color: auto; }
.tta-head { position: sticky; top: 0; z-index: 3; background: var(--jp-layout-color0, white); }
.tta-head, .tta-head > * { overflow: visible; }
.tta-head .jupyter-button { width: auto; min-width: 66px; }
.tta-charts { display: grid !important; gap: 4px 10px; overflow: visible;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 470px), 1fr)); }
.tta-title { font-weight: 600; margin: 4px 2px 0; color: var(--jp-ui-font-color1, inherit);
  border-bottom: 1px solid var(--jp-border-color2, #bbb); }
.tta-chips { display: flex; flex-wrap: wrap; gap: 3px 5px; padding: 1px 0; line-height: 1.35; }
.tta-chips span { border: 1px solid var(--jp-border-color1, #999); border-radius: 9px;
  padding: 0 7px; white-space: nowrap; max-width: 100%; overflow: hidden; text-overflow: ellipsis;
  color: var(--jp-ui-font-color1, inherit); background: var(--jp-layout-color1, transparent); }
.tta-chips span.tta-set { border-width: 2px; font-weight: 600; }
.tta-bench details { line-height: 1.4; }
.tta-bench details summary { cursor: pointer; color: var(--jp-ui-font-color1, inherit); }
.tta-bench table, .tta-bench pre { color: var(--jp-ui-font-color1, inherit); }
.tta-bench .jupyter-button:focus-visible, .tta-frame:focus-visible,
.tta-bench summary:focus-visible { outline: 2px solid var(--jp-brand-color1, #1976d2);
  outline-offset: 1px; }
.tta-frame { position: relative; width: 100%; line-height: 0; }
.tta-frame img { width: 100%; height: auto; }
.tta-mark { position: absolute; width: 1px; background: var(--jp-ui-font-color1, #333);
  opacity: 0.5; pointer-events: none; }
.tta-tip { position: absolute; pointer-events: none; z-index: 2; line-height: 1.35;
  font-size: 12px; padding: 2px 7px; white-space: nowrap; border-radius: 3px;
  color: var(--jp-ui-font-color0, black); background: var(--jp-layout-color0, white);
  border: 1px solid var(--jp-border-color1, #999); }
.tta-short .tta-left, .tta-short .tta-right { height: auto; min-height: 0;
  max-height: calc(100vh - 142px); }
@container (max-width: 799px) {
  .tta-bench { display: block !important; }
  .tta-left, .tta-right { height: auto; max-height: none; border: 0; }
  .tta-head { position: static; }
}
"""
WRAP = {"flex_flow": "row wrap", "align_items": "flex-start"}
KEYS = """export default { render({ el }) {
  let tries = 0;
  const open = new Set(), name = (fold) => fold.querySelector("summary")?.textContent;
  const follow = (house) => {  // a fold that is open stays so when what it holds is written anew
    house.addEventListener("toggle", (e) => {
      if (e.target.matches("details")) open[e.target.open ? "add" : "delete"](name(e.target));
    }, true);
    new MutationObserver(() => house.querySelectorAll("details:not([data-seen])").forEach((f) => {
      f.dataset.seen = ""; if (open.has(name(f))) f.open = true;
    })).observe(house, { childList: true, subtree: true });
  };
  const mark = () => {
    const output = el.closest(".jp-OutputArea-output");
    const house = el.closest(".tta-house");
    if (house && !house.dataset.follows) { house.dataset.follows = ""; follow(house); }
    if (output) output.addEventListener("focusin", (e) => {
      if (e.target.matches("select")) e.target.setAttribute("data-lm-suppress-shortcuts", "true");
    });
    else if (tries++ < 100) setTimeout(mark, 50);
  };
  mark();
} };"""


def div(content: str) -> str:
    """HTML no wider than the figures."""
    return f'<div style="line-height: 1.4; max-width: {WIDTH}px">{content}</div>'


def block(text: str) -> str:
    """A text as such HTML."""
    return div(html.escape(text))


def code_block(title: str, text: str) -> str:
    """A code or file to be copied, under its title."""
    return (f"<p>{html.escape(title)}</p><pre style=\"white-space: pre-wrap; overflow-wrap: "
            f'anywhere">{html.escape(text)}</pre>')


def details(title: str, text: str) -> str:
    """A code that is shown when its title is opened."""
    return f"<details><summary>{title}</summary><pre>{html.escape(text)}</pre></details>"


def table_html(titles: list[str], rows: list[list[str]]) -> str:
    """A table of texts (HTML), numbers to the right, that scrolls where it is too wide."""
    style = 'style="padding: 1px 8px; text-align: right"'
    head = "".join(f'<th scope="col" {style}>{title}</th>' for title in titles)
    lines = ("".join(f"<td {style}>{cell}</td>" for cell in row) for row in rows)
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return (f'<div style="overflow-x: auto; max-width: {WIDTH}px"><table style="line-height: 1.4">'
            f"<tr>{head}</tr>{body}</table></div>")


def chips(words, bold=()) -> str:
    """What will run, in a few words each; ``bold`` are places of those set apart."""
    spans = "".join(f'<span role="listitem"{" class=tta-set" if i in bold else ""}>'
                    f"{html.escape(word)}</span>" for i, word in enumerate(words))
    return f'<div class="tta-chips" role="list" aria-label="what will run">{spans}</div>'


def heading(text: str):
    """The name of a group of controls."""
    import ipywidgets as W

    return W.HTML(f'<div class="tta-title">{html.escape(text)}</div>')


def folded(title: str, content: str) -> str:
    """HTML that is shown when its title is opened."""
    return (f"<details><summary>{html.escape(title)}</summary>"
            f'<div style="max-width: {WIDTH}px">{content}</div></details>')


def workbench(left, right, head=()):
    """Controls at the left, what they do at the right, both in sight on a screen of 1280 x 720 and
    below each other at 800; ``head`` stays at the top of the right side while that is scrolled."""
    import ipywidgets as W

    for widget in left:
        _fill(widget)
    sides = [classed("left", *left), classed("right", *([classed("head", *head)] if head else []),
                                             *right)]
    box = W.Box(sides)
    box.add_class("tta-bench")
    house = W.VBox([W.HTML(f"<style>{STYLE}{BENCH}</style>"), box, own_keys()])
    house.add_class("tta-house")
    return house


def classed(name: str, *widgets):
    """Widgets under each other in a box of a class of the style above."""
    box = column(*widgets)
    box.add_class(f"tta-{name}")
    return box


def _fill(widget) -> None:
    """Let a control take the width of its side."""
    for child in getattr(widget, "children", ()):
        _fill(child)
    if getattr(widget, "description", "") and hasattr(widget, "value"):
        widget.layout.width = "98%"


def column(*widgets):
    """Widgets under each other."""
    import ipywidgets as W

    return W.VBox(widgets)


def line(*widgets):
    """Widgets beside each other, on further lines where they have no room."""
    import ipywidgets as W

    return W.HBox(widgets, layout=WRAP)


def picture(figure, alt: str, width: int = WIDTH) -> str:
    """A matplotlib figure as HTML."""
    content = base64.b64encode(png(figure)).decode()
    return (f'<img class="{CHART}" alt="{html.escape(alt)}" '
            f'style="width: {width}px; max-width: 100%" src="data:image/png;base64,{content}">')


def own_keys():
    """An invisible widget: JupyterLab (4.1 and later) takes the arrow keys from lists to move
    between cells; in the output that holds this widget it leaves them to the lists. Folds stay
    open while what they hold changes."""
    import anywidget

    return type("OwnKeys", (anywidget.AnyWidget,), {"_esm": KEYS})()
