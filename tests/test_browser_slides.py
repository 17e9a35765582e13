"""The slides of every module in a real browser of 1280 x 720: nothing is cut off, all of it is
legible."""
import pytest
from test_browser import chromium, console_errors, page_of

from tta_lab.workshop import day

pytestmark = pytest.mark.browser

OUTSIDE = """() => {  // what of the slide lies outside the window, or is wider than its place
  const slide = document.querySelector('.deck-shown'), found = [];
  for (const e of slide.querySelectorAll('h1, h2, p, li, pre, img, table')) {
    const r = e.getBoundingClientRect();
    if (!r.width || !r.height) continue;
    const out = r.top < 0 || r.left < 0 || r.bottom > innerHeight || r.right > innerWidth;
    if (out) found.push([e.tagName, r.top, r.bottom, r.right, e.textContent.slice(0, 60)]);
    if (e.scrollWidth > e.clientWidth + 1 && e.clientWidth) found.push([e.tagName, 'cut at the right', e.textContent.slice(0, 60)]);
  }
  return found;
}"""


@pytest.mark.slow
@pytest.mark.parametrize("path", day.solutions(), ids=lambda p: p.stem)
def test_no_slide_overflows(path, tmp_path, monkeypatch):
    chromium()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    deck = day.slides(path.stem, out=tmp_path, say=lambda *a, **k: None)
    with page_of(tmp_path) as page:
        console = console_errors(page)
        page.set_content(deck.read_text(encoding="utf-8"), wait_until="load")
        place = page.locator("#deck-place")
        count = int(place.inner_text().split("/")[1])
        for at in range(1, count + 1):
            place.get_by_text(f"{at} / {count}").wait_for(timeout=5000)
            page.wait_for_timeout(250)  # figures that arrive late make it fit anew
            assert page.locator(".deck-shown").count() == 1
            assert page.evaluate(OUTSIDE) == [], f"slide {at}"
            assert float(
                page.evaluate("document.querySelector('.deck-shown').firstChild.style.zoom || 1")
            ) >= 0.6, f"slide {at} is too small to read"
            page.keyboard.press("ArrowRight")
        assert count == sum("slide" in c.metadata.get("tags", [])
                            for c in cells(path)) and console == []


def cells(path):
    import nbformat

    return nbformat.read(path, as_version=4).cells
