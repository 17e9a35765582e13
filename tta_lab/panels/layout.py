"""What panels are laid out with: HTML of one width, boxes, pictures, and the keys of lists."""
from __future__ import annotations

import base64
import html

from ..plots import png

WIDTH = 820  # beside JupyterLab's file list on a screen of 1280 x 720
WRAP = {"flex_flow": "row wrap", "align_items": "flex-start"}
KEYS = """export default { render({ el }) {
  let tries = 0;
  const mark = () => {
    const output = el.closest(".jp-OutputArea-output");
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
    return (f'<img alt="{html.escape(alt)}" style="width: {width}px; max-width: 100%" '
            f'src="data:image/png;base64,{content}">')


def own_keys():
    """An invisible widget: JupyterLab (4.1 and later) takes the arrow keys from lists to move
    between cells; in the output that holds this widget it leaves them to the lists."""
    import anywidget

    return type("OwnKeys", (anywidget.AnyWidget,), {"_esm": KEYS})()
