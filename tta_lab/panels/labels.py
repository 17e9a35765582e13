"""Names for the handles of sliders: ipywidgets writes the name beside a slider and does not bind
the two, so that who cannot see the page would hear a number without a name."""
from __future__ import annotations

import functools

LABELS = """export default { render() {
  const mark = () => {
    for (const handle of document.querySelectorAll(".jupyter-widgets [role=slider]:not([aria-label])")) {
      const text = handle.closest(".widget-inline-hbox, .widget-hslider, .jupyter-widgets")
        ?.querySelector(".widget-label")?.textContent;
      handle.setAttribute("aria-label", text || "slider");
    }
  };
  let waits = false;
  const soon = () => { if (!waits) { waits = true; setTimeout(() => { waits = false; mark(); }, 100); } };
  const watch = new MutationObserver(soon);
  watch.observe(document.body, { childList: true, subtree: true });
  mark();
  return () => watch.disconnect();
} };
"""  # noqa: E501


@functools.cache
def _kind():
    import anywidget

    return type("SliderLabels", (anywidget.AnyWidget,), {"_esm": LABELS})


def slider_labels():
    """An invisible widget that gives every slider of the page the name that stands beside it."""
    return _kind()()
