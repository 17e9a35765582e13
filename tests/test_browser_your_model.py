"""JupyterLab in a real browser: the bring-your-own notebook, its fields, the doctor, the explorer
below, with labels and without."""
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
    with_defaults,
)

pytestmark = pytest.mark.browser


def test_your_model_in_jupyterlab(tmp_path):
    chromium()
    values = {
        "per_shift": 40, "batch": 10, "limit": 60, "folder": str(tmp_path / "case"), "shifts": "fog"
    }
    with_defaults(ROOT / "notebooks" / "06_your_model.ipynb", tmp_path / "notebook.ipynb", values)
    with jupyterlab(tmp_path) as address, page_of(tmp_path) as page:
        console = console_errors(page)
        open_notebook(page, address("notebook.ipynb"))
        run_all(page)
        assert page.locator(ERRORS).all_inner_texts() == []

        def button(name):
            return page.locator(".jupyter-widgets .jupyter-button").get_by_text(name, exact=True)

        def field(label):
            return page.locator(".jupyter-widgets.widget-text", has=page.locator(
                "label", has_text=re.compile(f"^{label}$"))).locator("input")

        def after(text, seconds=120):
            place = page.locator(".jupyter-widgets [role=status]", has_text=text)
            place.wait_for(timeout=1000 * seconds)
            return place.inner_text()

        after("Name a model and a folder of images, then press Check.")
        right = field("weights file").input_value()
        assert right == str(tmp_path / "case" / "my_weights.safetensors")
        field("weights file").fill("/nowhere/weights.pt")
        field("weights file").press("Enter")
        button("Check").press("Enter")
        after("Nothing was checked: there is no checkpoint file /nowhere/weights.pt; check the "
              "path.")
        field("weights file").fill(right)
        field("weights file").press("Enter")
        after("The fields were changed: press Check.")
        button("Check").press("Enter")
        assert "nothing wrong. The explorer is below." in after("Checked 200 images")
        assert page.locator(".jupyter-widgets table",
                            has_text="looked at").locator("tr").count() == 15

        button("Run").press("Enter")
        assert re.search(r"40 images: error \d+\.\d %.*source \d+\.\d %, BN-1 \d+\.\d %",
                         after("Done, tent"))
        picture = page.locator(".jupyter-widgets img[alt*='tent']").first
        assert picture.evaluate("e => e.naturalWidth") > 400
        method = page.locator(".jupyter-widgets select",
                              has=page.locator("option", has_text="cotta  (teacher)"))
        # slow enough to be stopped
        method.select_option(label="cotta  (teacher)")
        page.locator(".jupyter-widgets",
                     has_text="CoTTA: learn all weights").last.wait_for(timeout=15_000)
        images = page.locator(".jupyter-widgets",
                              has=page.locator("label", has_text="images per "
                                               "shift")).last.locator("[role=slider]")
        images.focus()
        page.keyboard.press("End")                                         # all 200 images
        page.locator(".jupyter-widgets",
                     has_text="200 images in 20 batches").last.wait_for(timeout=15_000)
        button("Run").press("Enter")
        after("Running cotta")
        button("Stop").last.press("Enter")
        assert re.search(r"Held, cotta on .*, \d+ images", after("Held, cotta", 60))

        page.locator(".jupyter-widgets.widget-checkbox",
                     has_text="sub-folders are classes").locator("input").press("Space")
        button("Check").press("Enter")
        page.locator(".jupyter-widgets", has_text="Not looked at: accuracy and class order: no "
                                                  "image has a label").last.wait_for(timeout=60_000)
        after("Checked 200 images")
        after("Nothing has run yet: press Run")
        button("Step").press("Enter")
        assert re.search(r"no labels: it answers like the source for \d+\.\d % and like BN-1 for "
                         r"\d+\.\d % of the images", after("Held, tent"))
        page.locator(
            ".jupyter-widgets",
            has_text="errors cannot be counted").filter(visible=True).last.wait_for(timeout=15_000)
        assert page.locator(".jupyter-widgets img[alt^='same answer so far']").evaluate(
            "e => e.naturalWidth") > 400
        button("▸ images").press("Enter")
        shown = page.locator(".jupyter-widgets", has_text=re.compile(r"^\d+ of \d+ images"))
        shown.last.wait_for(timeout=30_000)
        show = page.locator(".jupyter-widgets.widget-dropdown", has=page.locator(
            "label", has_text=re.compile("^show$"))).locator("select")
        show.select_option(label="wrong")
        page.locator(".jupyter-widgets", has_text="Which images are wrong cannot be said: that "
                                                  "needs labels").last.wait_for(timeout=30_000)
        table = page.locator(".tta-runs table")
        assert "no labels" in table.inner_text() and "nan" not in table.inner_text().lower()
        assert page.locator(ERRORS).all_inner_texts() == [] and console == []
