"""PreviewBox: what the shifts do to the images, before anything has run."""
from __future__ import annotations

import html
from collections.abc import Callable

from ..studies.explorer.images import THUMBNAIL, data_uri, preview
from .controls import dropdown
from .layout import block, column, line
from .stream_settings import SHIFTS


class PreviewBox:
    """``show(images, shifts, severity)`` draws a few images clean and under each shift; moving its
    severity draws them anew and is told to ``moved``. ``shown`` holds the numbers."""

    def __init__(self):
        import ipywidgets as W

        self._images = None
        self._shifts: tuple[str, ...] = ()
        self._callback: Callable | None = None
        self._busy = False
        self.shown = {"rows": [], "why": ""}
        self.severity = W.FloatSlider(value=5.0, min=0.0, max=5.0, step=0.5, description="severity",
                                      continuous_update=False, tooltip="of every shift")
        names = [("all that are chosen", ""), *((s.replace("_", " "), s) for s in SHIFTS
                                                if s != "none")]
        self.shift = dropdown("shift", names, "", "shift", "what is done to the images")
        for widget in (self.severity, self.shift):
            widget.style.description_width = "60px"
            widget.layout.width = "255px"
            widget.observe(self._moved, "value")
        self.pictures = W.HTML()
        self.widget = column(line(self.shift, self.severity), self.pictures)

    def moved(self, callback: Callable[[float, tuple], None]) -> None:
        """Call ``callback(severity, shifts)`` when the severity was moved by hand."""
        self._callback = callback

    def show(self, images, shifts, severity: float) -> None:
        """Draw these images; nobody is told."""
        self._images = images
        self._shifts = tuple(shifts)
        self._busy = True
        try:
            self.severity.value = severity
        finally:
            self._busy = False
        self._draw()

    def _moved(self, change) -> None:
        if self._busy or self._images is None:
            return
        self._draw()
        if change["owner"] is self.severity and self._callback is not None:
            self._callback(self.severity.value, self._shifts)

    def _draw(self) -> None:
        wanted = (self.shift.value,) if self.shift.value else self._shifts
        self.shown = preview(self._images, wanted, self.severity.value)
        rows = "".join(
            f'<tr><th scope="row" style="text-align: right; padding-right: 8px; font-weight: '
            f'normal">{html.escape(name)}</th><td style="white-space: nowrap">{_pictures(name, x)}'
            "</td></tr>" for name, x in self.shown["rows"])
        why = block(self.shown["why"]) if self.shown["why"] else ""
        self.pictures.value = (f'<div style="max-height: 330px; overflow: auto"><table>{rows}'
                               f"</table></div>{why}")


def _pictures(name: str, images) -> str:
    return "".join(f'<img src="{data_uri(image, THUMBNAIL)}" alt="{html.escape(name)}" '
                   'style="width: 52px; height: 52px; object-fit: contain; margin: 1px; '
                   'image-rendering: pixelated">' for image in images)
