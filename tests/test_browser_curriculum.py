"""The notebooks on normalisation and on lifelong adaptation in JupyterLab: their panels obey
keyboard and buttons and draw pictures."""
import re

import pytest
from test_browser import (
    ERRORS,
    ROOT,
    chromium,
    jupyterlab,
    open_notebook,
    page_of,
    run_all,
    status,
    with_defaults,
)

pytestmark = pytest.mark.browser


def picture(page):
    """Width in pixels of the panel's picture, and what it says to those who cannot see it."""
    image = page.locator(".jupyter-widgets img")
    page.wait_for_function("() => document.querySelector('.jupyter-widgets img')?.naturalWidth > "
                           "400", timeout=30_000)
    return image.evaluate("e => e.getBoundingClientRect().width"), image.get_attribute("alt")


def test_normalisation_and_its_panel(tmp_path):
    chromium()
    with_defaults(ROOT / "notebooks" / "07_normalisation_matters.ipynb",
                  tmp_path / "notebook.ipynb", {"per_shift": 40, "alone": 4})
    with jupyterlab(tmp_path) as address, page_of(tmp_path) as page:
        open_notebook(page, address("notebook.ipynb"))
        run_all(page)
        assert page.locator(ERRORS).all_inner_texts() == []
        assert status(page).startswith("Stored, made with") and picture(
            page)[1].startswith("Error so far: this run")
        source, stream, method = (page.locator(".jupyter-widgets select").nth(i) for i in range(3))
        page.locator(".jupyter-widgets [role=slider]").first.focus()
        page.keyboard.press("End")                                       # batches of 64
        page.locator(".jupyter-widgets",
                     has_text="batches of 64 images").last.wait_for(timeout=15_000)
        source.select_option(label="fashion_vit_ln")
        page.locator(".jupyter-button", has_text="Run").press("Enter")
        page.locator("[role=status]", has_text="fashion_vit_ln has none").wait_for(timeout=15_000)
        source.select_option(label="fashion_resnet_bn")
        method.focus()
        # IABN -> RoTTA, and not to another cell
        page.keyboard.press("ArrowDown")
        stream.select_option(label="one shift at a time")
        method.select_option(label="BN-1")
        page.locator(".jupyter-button", has_text="Run").press("Enter")
        page.locator("[role=status]", has_text="Done: BN-1 on fashion_resnet_bn under one shift "
                                               "at a time").wait_for(timeout=120_000)
        width, said = picture(page)
        assert 400 < width <= 820 and re.search(r"this run \d+\.\d per cent, source \d+\.\d", said)
        assert page.locator(ERRORS).all_inner_texts() == []


def test_lifelong_and_its_panel(tmp_path):
    chromium()
    with_defaults(ROOT / "notebooks" / "08_lifelong.ipynb", tmp_path / "notebook.ipynb",
                  {"per_shift": 20, "rounds": 2})
    with jupyterlab(tmp_path) as address, page_of(tmp_path) as page:
        open_notebook(page, address("notebook.ipynb"))
        run_all(page)
        assert page.locator(ERRORS).all_inner_texts() == []
        assert status(page).startswith("Stored, made with")
        page.locator(".jupyter-widgets [role=slider]").first.focus()
        page.keyboard.press("End")
        page.locator(".jupyter-widgets",
                     has_text="Tent at 80 times its rate").last.wait_for(timeout=15_000)
        page.locator(".jupyter-widgets select").first.focus()
        # nothing -> reset, and not to another cell
        page.keyboard.press("ArrowDown")
        page.locator(".jupyter-widgets",
                     has_text="held by reset now and then").last.wait_for(timeout=15_000)
        page.locator(".jupyter-button", has_text="Run").press("Enter")
        page.locator("[role=status]", has_text="Running Tent at 80 times").wait_for(timeout=120_000)
        page.locator(".jupyter-button", has_text="Stop").press("Enter")
        page.locator("[role=status]", has_text="Stopped: Tent at 80 times").wait_for(timeout=30_000)
        page.locator(".jupyter-button", has_text="Run").press("Enter")
        page.locator("[role=status]", has_text="Done: Tent at 80 times").wait_for(timeout=120_000)
        assert "clean images" in status(page) and "went back 3 times" in status(page)
        width, said = picture(page)
        assert 400 < width <= 820 and "they went back 3 times" in said
        assert page.locator(ERRORS).all_inner_texts() == []
