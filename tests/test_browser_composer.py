"""The composer in JupyterLab in a real browser: choose by keyboard, see why not, run, stop, take
the run away as code."""
import re

import pytest
from test_browser import (
    ERRORS,
    ROOT,
    chromium,
    console_errors,
    jupyterlab,
    open_notebook,
    page_of,
    run_all,
    status,
    with_defaults,
)

pytestmark = pytest.mark.browser
NOTEBOOK = ROOT / "notebooks" / "05_compose_your_own.ipynb"


def slot(page, name, nth=0):
    """The list of a slot, by the name beside it."""
    beside = page.locator("label", has_text=re.compile(f"^{name}$"))
    return page.locator(".jupyter-widgets.widget-dropdown").filter(
        has=beside).nth(nth).locator("select")


def button(page, name):
    return page.locator(".jupyter-widgets .jupyter-button").get_by_text(name, exact=True)


def after(page, text, seconds=120):
    page.locator("[role=status]", has_text=text).wait_for(timeout=1000 * seconds)
    return status(page)


def says(page, text):
    """Wait until a sentence of the panel holds this text."""
    page.locator(".jupyter-widgets p, .jupyter-widgets b", has_text=text).first.wait_for(
        timeout=30_000)


def option(page, name, text):
    """Wait until a list holds an option with this text (whose spaces the widget makes
    unbreakable)."""
    pattern = r"\s".join(map(re.escape, text.split()))
    slot(page,
         name).locator("option",
                       has_text=re.compile(f"^{pattern}$")).wait_for(state="attached",
                                                                     timeout=60_000)


def test_composer_in_jupyterlab(tmp_path):
    chromium()
    with_defaults(NOTEBOOK, tmp_path / "notebook.ipynb", {"per_shift": 100, "batch": 10})
    with jupyterlab(tmp_path) as address, page_of(tmp_path) as page:
        console = console_errors(page)
        open_notebook(page, address("notebook.ipynb"))
        run_all(page)
        assert page.locator(ERRORS).all_inner_texts() == []
        assert status(page).startswith("Nothing has run yet: choose")
        says(page, "This is tent: every slot holds what it holds there.")

        # what cannot stand beside Tent's parts is marked in words, and the reason can be read
        option(page, "output", "✗ teacher's prediction (not with these)")
        reasons = button(page, "▸ what cannot be chosen, and why")
        reasons.press(" ")
        page.locator(".jupyter-widgets li", has_text="returns what a teacher says, but there is "
                                                     "none").first.wait_for(timeout=15_000)
        button(page, "▾ what cannot be chosen, and why").press(" ")

        # a slot by keyboard: entropy -> likelihood ratio
        objective = slot(page, "objective")
        objective.focus()
        page.keyboard.press("ArrowDown")
        says(page, "This is slr: every slot")
        assert objective.evaluate("e => e === document.activeElement") and slot(
            page, "start from").evaluate("e => e.value").startswith("slr")

        # an impossible combination: the sentence, the way out, and Run refuses
        option(page, "objective", "✗ agreement with the teacher (not with these)")
        objective.select_option(label="✗ agreement with the teacher (not with these)")
        says(page, "learns from a teacher, but there is none")
        button(page, "Run").press("Enter")
        assert "this composition is impossible" in after(
            page, "Nothing was run") and 'teacher "mean teacher"' in status(page)
        option(page, "teacher", "→ frozen source (would make it possible)")
        slot(page, "teacher").select_option(label="→ frozen source (would make it possible)")
        says(page, "This composition is no method of the catalogue")

        button(page, "Run").press("Enter")
        after(page, "Running the composition")
        button(page, "Stop").press("Enter")
        held = after(page, "Stopped after batch")
        assert re.search(r"Stopped after batch \d+ of 40\. The composition errs on \d+\.\d %", held)
        picture = page.locator(".jupyter-widgets img[alt*='composition']")
        assert picture.evaluate("e => e.naturalWidth") > 400
        assert "composition" in page.locator(".jupyter-widgets table tr", has_text="composition").first.inner_text()

        button(page, "▸ code").press(" ")
        code = page.locator(".jupyter-widgets pre", has_text="found = explore(").first.inner_text()
        page.evaluate(
            """code => {
            const panel = window.jupyterapp.shell.currentWidget, cells = panel.content.widgets;
            panel.content.activeCellIndex = cells.findIndex(c => c.model.sharedModel.source.includes('panel.to_code()'));
            panel.content.activeCell.model.sharedModel.setSource(code + "\\nprint(f'all {found.rows[0][\\"error_weighted\\"]:.1f} %')");
            window.jupyterapp.commands.execute('notebook:run-cell') }""", code)
        printed = page.locator(".jp-OutputArea-output", has_text=re.compile(r"all \d+\.\d %"))
        printed.wait_for(timeout=120_000)
        told = re.search(r"all ([\d.]+) %", printed.inner_text())[1]
        # the code repeats the run as far as it went
        assert f"errs on {told} %" in held, (told, held)
        assert page.locator(ERRORS).all_inner_texts() == [] and console == []
