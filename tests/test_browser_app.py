"""The app in a real browser: the explorer as a page without code, which asks nothing of other
machines."""
import contextlib
import re
import secrets

import pytest
from test_browser import ERRORS, ROOT, chromium, console_errors, page_of, serving

from tta_lab.cli import app

pytestmark = pytest.mark.browser


@contextlib.contextmanager
def voila(notebook, folder, slides=False):
    """The page's server, with settings of its own; gives the page's address."""
    env = dict(app.environment(), PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1",
               OMP_WAIT_POLICY="PASSIVE", JUPYTER_RUNTIME_DIR=str(folder / "runtime"),
               JUPYTER_CONFIG_DIR=str(folder / "config"), IPYTHONDIR=str(folder / "ipython"))
    token = secrets.token_hex(8)
    rest = ["--no-browser", "--Voila.ip=127.0.0.1", f"--token={token}"]
    with serving(lambda port: app.command(notebook, [*rest, f"--port={port}"], slides), env, folder,
                 "/voila/static/voila.js") as address:
        yield f"{address}/?token={token}"


def test_the_explorer_as_a_page(tmp_path):
    chromium()
    notebook = app.explorer_page(tmp_path)
    with voila(notebook, tmp_path) as address, page_of(tmp_path) as page:
        console = console_errors(page)
        page.goto(address, timeout=120_000)
        page.locator("[role=status]", has_text="Stored, tent on").wait_for(timeout=120_000)
        assert page.locator(".tta-charts .tta-frame img").first.evaluate("e => e.naturalWidth") > 400
        # a page without code
        assert page.locator(".jp-CodeCell .jp-InputArea").count() == 0

        def button(name):
            return page.locator(".jupyter-widgets .jupyter-button").get_by_text(name, exact=True)

        rate = page.locator(".jupyter-widgets",
                            has_text="learning rate").last.locator("[role=slider]")
        rate.focus()
        page.keyboard.press("ArrowRight")
        page.locator(".tta-chips", has_text="tent lr 0.00126").wait_for(timeout=15_000)
        button("Run").press("Enter")
        page.locator("[role=status]", has_text=re.compile("Running|Done")).wait_for(timeout=60_000)
        done = re.compile(r"Done, tent lr 0.00126 on fashion_resnet_bn, continual, 400 images: "
                          r"error \d+\.\d %")
        page.locator("[role=status]", has_text=done).wait_for(timeout=120_000)
        picture = page.locator(".jupyter-widgets img[alt*='tent lr 0.00126']").first
        assert picture.evaluate("e => e.naturalWidth") > 400

        # slow enough to be stopped
        page.locator(".jupyter-widgets select", has=page.locator(
            "option", has_text="cotta  (teacher)")).select_option(label="cotta  (teacher)")
        page.locator(".jupyter-widgets",
                     has_text="CoTTA: learn all weights").last.wait_for(timeout=15_000)
        button("Run anew").or_(button("Run")).press("Enter")
        page.locator("[role=status]", has_text="Running cotta").wait_for(timeout=60_000)
        button("Stop").press("Enter")
        page.locator("[role=status]", has_text="Held, cotta").wait_for(timeout=60_000)
        assert page.locator(ERRORS).all_inner_texts() == [] and console == []


def test_a_workshop_module_as_slides(tmp_path):
    chromium()
    notebook = ROOT / "notebooks" / "workshop" / "solutions" / "module_1_tent.ipynb"
    with voila(notebook, tmp_path, slides=True) as address, page_of(tmp_path) as page:
        page.goto(address, timeout=120_000)  # the page is whole when the module has run
        place = page.locator("#deck-place")
        place.get_by_text("1 / 11").wait_for(timeout=120_000)
        # the module has run
        page.get_by_text("mean entropy: ").wait_for(state="attached", timeout=60_000)
        for _ in range(3):
            page.keyboard.press("ArrowRight")
        place.get_by_text("4 / 11").wait_for(timeout=15_000)
        page.locator(".deck-shown",
                     has_text="Is a certain prediction a right one?").wait_for(timeout=15_000)
        assert page.locator(".deck-shown").count() == 1
        assert page.locator(".jp-CodeCell .jp-InputArea").count() == 0 and page.locator(
            ERRORS).all_inner_texts() == []
