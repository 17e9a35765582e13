"""ImageGrid: pictures with a badge and two lines each; one can be enlarged, and then says who said
what of it."""
from __future__ import annotations

import functools
import json
from collections.abc import Callable

PAGE = 60  # pictures that are shown before "more" is pressed

VIEW = """
const make = (tag, parent, facts = {}) => {
  const e = document.createElement(tag);
  for (const [k, v] of Object.entries(facts)) k === "text" ? e.textContent = v : e.setAttribute(k, v);
  parent?.append(e);
  return e;
};
export default { render({ model, el }) {
  const grid = make("div", el, { class: "tta-grid", role: "group", "aria-label": "images" });
  const large = make("div", el, { class: "tta-large", role: "dialog", "aria-label": "one image" });
  for (const e of [grid, large]) e.setAttribute("data-lm-suppress-shortcuts", "true");
  let from = null;
  const close = () => { large.style.display = "none"; from?.focus(); };
  const draw = () => {
    const items = JSON.parse(model.get("items"));
    grid.replaceChildren(); close();
    const add = (start) => {
      items.slice(start, start + model.get("page")).forEach((t, i) => {
        const b = make("button", grid, { type: "button", "aria-label": `${t.alt}. Enter enlarges.`,
          tabindex: start + i ? -1 : 0 });
        if (t.src) make("img", b, { src: t.src, alt: "" });
        make("span", b, { text: t.badge, class: "badge" });
        for (const line of t.lines) make("span", b, { text: line });
        b.onclick = () => { from = b; model.send({ key: t.key }); };
      });
      if (items.length > start + model.get("page")) {
        const more = make("button", grid, { type: "button",
          text: `${items.length - start - model.get("page")} more` });
        more.onclick = () => { more.remove(); add(start + model.get("page")); };
      }
    };
    add(0);
  };
  grid.onkeydown = (e) => {
    const all = [...grid.children], i = all.indexOf(document.activeElement);
    const across = Math.max(1, all.filter((b) => b.offsetTop === all[0].offsetTop).length);
    const to = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: across, ArrowUp: -across }[e.key];
    if (to === undefined || i < 0) return;
    e.preventDefault(); e.stopPropagation();
    const next = all[Math.min(all.length - 1, Math.max(0, i + to))];
    all[i].tabIndex = -1; next.tabIndex = 0; next.focus();
  };
  large.onkeydown = (e) => { if (e.key === "Escape") { e.stopPropagation(); close(); } };
  const show = () => {
    const t = JSON.parse(model.get("detail"));
    large.replaceChildren();
    if (!t) { close(); return; }
    large.style.display = "flex";
    if (t.src) make("img", large, { src: t.src, alt: "the image, enlarged" });
    const side = make("div", large);
    const shut = make("button", side, { type: "button", text: "Close (Escape)", class: "shut" });
    shut.onclick = close;
    make("b", side, { text: t.badge });
    const table = make("table", side);
    for (const a of t.answers) {
      const row = make("tr", table);
      make("th", row, { text: a.who, scope: "row" });
      make("td", row, { text: a.class });
      const cell = make("td", row), bar = make("span", cell, { class: "bar" });
      bar.style.width = `${Math.round(80 * a.confidence)}px`;
      make("span", cell, { text: ` ${(100 * a.confidence).toFixed(1)} %` });
      make("td", row, { class: "rest", text: a.top.slice(1).map(([c, p]) => `${c} ${(100 * p).toFixed(0)} %`).join(", ") });
    }
    make("div", side, { text: t.facts.map(([k, v]) => `${k}: ${v}`).join("; ") });
    shut.focus();
  };
  model.on("change:items", draw);
  model.on("change:detail", show);
  draw();
  return () => { model.off("change:items", draw); model.off("change:detail", show); };
} };
"""  # noqa: E501
STYLE = """
.tta-grid { display: flex; flex-wrap: wrap; gap: 4px; max-height: 250px; overflow-y: auto;
  color: var(--jp-ui-font-color1, inherit); }
.tta-grid button { display: flex; flex-direction: column; align-items: center; padding: 2px;
  font-size: 11px; line-height: 1.25; min-width: 72px; max-width: 104px; cursor: pointer;
  color: inherit; background: var(--jp-layout-color1, transparent);
  border: 1px solid var(--jp-border-color2, #999); border-radius: 3px; }
.tta-grid button:focus-visible, .tta-large button:focus-visible {
  outline: 2px solid var(--jp-brand-color1, #1976d2); outline-offset: -2px; }
.tta-grid img { width: 56px; height: 56px; object-fit: contain; image-rendering: pixelated; }
.tta-grid .badge { font-weight: 600; }
.tta-large { display: none; gap: 12px; align-items: flex-start; flex-wrap: wrap; padding: 6px;
  margin-top: 4px; color: var(--jp-ui-font-color1, inherit); line-height: 1.4;
  border: 1px solid var(--jp-border-color1, #999); background: var(--jp-layout-color0, white); }
.tta-large img { width: 168px; height: 168px; object-fit: contain; image-rendering: pixelated; }
.tta-large > div { flex: 1; min-width: 240px; }
.tta-large th, .tta-large td { text-align: left; padding: 0 8px 0 0; }
.tta-large .bar { display: inline-block; height: 9px; background: currentColor; opacity: 0.6; }
.tta-large .rest { opacity: 0.8; font-size: 12px; }
.tta-large .shut { float: right; }
"""


@functools.cache
def _kind():
    import anywidget
    import traitlets

    class ImageGrid(anywidget.AnyWidget):
        _esm = VIEW
        _css = STYLE
        items = traitlets.Unicode("[]").tag(sync=True)
        detail = traitlets.Unicode("null").tag(sync=True)
        page = traitlets.Int(PAGE).tag(sync=True)

        def show(self, cards: list[dict]) -> None:
            """Show these cards (`studies.explorer.images.cards`)."""
            self.items = json.dumps(cards)

        def on_open(self, callback: Callable[[int], dict]) -> None:
            """What ``callback(key)`` (`studies.explorer.images.told`) says of a picture that is
            chosen is shown beside it, enlarged."""
            def answer(_, content, buffers):
                self.detail = "null"  # so that the same picture can be opened again
                self.detail = json.dumps(callback(int(content["key"])))

            self.on_msg(answer)

    return ImageGrid


def image_grid():
    """An empty grid: ``show(cards)``, ``on_open(callback)``."""
    return _kind()()
