"""How figures follow the theme of the page that shows them.

One rule says what a figure is made of:

- what one reads - a cell's output, a page, a figure that is drawn again while a run goes on - is a
  PNG by matplotlib: some 50 kB, there at once, and a panel's frame adds the values under the
  pointer;
- what one zooms in or turns - maps of hundreds of cells, streams, pictures with a slider over
  their states - is plotly.

Both are drawn once, for a light page. In a dark one the style below turns their lightness round and
keeps their hues, so that a series has the same colour name in both. Photographs are never turned:
they stand on nothing, with names in a grey that can be read on both.
"""
from __future__ import annotations

CHART = "tta-figure"  # class of what is turned round on a dark page
NEUTRAL = "#767676"   # of names beside photographs: at least 4.2 : 1 on white and on dark pages
NEEDS_LIGHT = {"needs_background": "light"}  # what JupyterLab is told of a chart among its outputs

_DARK = ('[data-jp-theme-light="false"]', ".vscode-dark", ".theme-dark", "html[theme=dark]")
_TURN = "filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen;"
_OURS = f".{CHART}"
_OUTPUT = "img.jp-needs-light-background"
STYLE = (f"{_OURS} {{ mix-blend-mode: multiply; }}\n"
         + ", ".join(f"{where} {what}" for where in _DARK for what in (_OURS, _OUTPUT))
         + f" {{ {_TURN} background: none; }}\n")
PAGE_STYLE = f"@media (prefers-color-scheme: dark) {{ {_OURS} {{ {_TURN} }} }}\n"
