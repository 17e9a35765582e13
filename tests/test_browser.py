"""JupyterLab in a real browser: the notebooks run, their panels obey keyboard and buttons, and no error hides in a widget."""
import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = ROOT / "notebooks" / "01_wisdom_of_crowds.ipynb"
TINY = {"lr": 0.005, "rounds": 2, "per_shift": 50}
SWITCHES = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
            "--disable-component-update", "--disable-sync"]
SETTINGS = {"@jupyterlab/apputils-extension/notification.jupyterlab-settings": {"fetchNews": "false", "checkForUpdates": False},
            "@jupyterlab/notebook-extension/tracker.jupyterlab-settings": {"windowingMode": "none"},
            "@jupyterlab/docmanager-extension/plugin.jupyterlab-settings": {"autosave": False}}
ERRORS = '[data-mime-type="application/vnd.jupyter.error"], .jp-OutputArea-output[data-mime-type*="stderr"] .ansi-red-fg'
pytestmark = pytest.mark.browser


def chromium():
    """The browser's path and playwright's entry point, or a skip that says what is missing; with TTA_LAB_BROWSER=required a failure."""
    give_up = pytest.fail if os.environ.get("TTA_LAB_BROWSER") == "required" else pytest.skip
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        give_up("no Chromium on this machine: install it (Debian and Ubuntu: apt-get install chromium)")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        give_up("playwright is missing: pip install playwright (its own browsers are not needed)")
    return path, sync_playwright


def with_defaults(source, target, values):
    """Copy a notebook with other defaults in its parameters cell."""
    notebook = nbformat.read(source, as_version=4)
    cell = next(c for c in notebook.cells if "parameters" in c.metadata.get("tags", []))
    for name, value in values.items():
        cell.source, n = re.subn(rf"(?m)^({name}: \w+ = )\S+", rf"\g<1>{value!r}", cell.source)
        assert n == 1, name
    nbformat.write(notebook, target)


@contextlib.contextmanager
def serving(command, env, folder, probe):
    """A server that runs ``command(port)``, once ``probe`` answers; gives its address."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    log, address = folder / ".server.log", f"http://127.0.0.1:{port}"
    with log.open("w") as to:
        server = subprocess.Popen(command(port), env=env, stdout=to, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                urllib.request.urlopen(address + probe, timeout=5).read()
                break
            except OSError as why:
                if server.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError("the server did not start:\n" + log.read_text()[-3000:]) from why
                time.sleep(0.3)
        yield address
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()


@contextlib.contextmanager
def jupyterlab(folder, theme="JupyterLab Light"):
    """A JupyterLab server on this folder with settings of its own; gives the address of a file's page as a function."""
    token = secrets.token_hex(8)
    places = {name: folder / f".{name.lower()}" for name in ("JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR", "JUPYTER_RUNTIME_DIR",
                                                             "JUPYTER_CONFIG_DIR", "IPYTHONDIR")}
    themes = {"@jupyterlab/apputils-extension/themes.jupyterlab-settings": {"theme": theme}}
    for name, content in (SETTINGS | themes).items():
        path = places["JUPYTERLAB_SETTINGS_DIR"] / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content))
    env = dict(os.environ, **{k: str(v) for k, v in places.items()}, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1", OMP_WAIT_POLICY="PASSIVE",
               JUPYTER_PREFER_ENV_PATH="1")

    def command(port):
        return [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", "--ip=127.0.0.1", f"--port={port}",
                "--ServerApp.port_retries=0", f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder}",
                "--LabApp.expose_app_in_browser=True"]

    with serving(command, env, folder, f"/api?token={token}") as server:
        yield lambda name: f"{server}/lab/tree/{name}?token={token}&reset"


LOCAL = ("http://127.0.0.1:", "ws://127.0.0.1:", "data:", "blob:", "about:")


@contextlib.contextmanager
def page_of(folder, width=1280, height=720):
    """A page of a fresh browser; fails at the end when a request has left the machine."""
    path, sync_playwright = chromium()
    with sync_playwright() as p:
        context = p.chromium.launch_persistent_context(str(folder / ".browser"), executable_path=path, headless=True, args=SWITCHES,
                                                       viewport={"width": width, "height": height})
        outside = []
        context.on("request", lambda request: None if request.url.startswith(LOCAL) else outside.append(request.url))
        try:
            yield context.pages[0] if context.pages else context.new_page()
            assert outside == [], "requests left the machine"
        finally:
            context.close()


def console_errors(page):
    """A list to which the page's errors are added from now on."""
    errors = []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda why: errors.append(str(why)))
    return errors


def idle(page, seconds=120):
    page.wait_for_function("""() => {
        const panel = window.jupyterapp?.shell.currentWidget;
        return panel?.sessionContext?.session?.kernel?.status === 'idle' }""", timeout=1000 * seconds)


def open_notebook(page, address):
    page.goto(address)
    page.wait_for_selector(".jp-NotebookPanel .jp-Cell", timeout=90_000)
    idle(page)


def run_all(page, seconds=300):
    """Run every cell; returns when the kernel is idle and all code cells have a number, or one has failed."""
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")
    page.wait_for_function(f"""() => {{
        const panel = window.jupyterapp.shell.currentWidget;
        const code = panel.content.widgets.filter(c => c.model.type === 'code' && c.model.sharedModel.source.trim());
        const done = code.every(c => c.model.executionCount !== null);
        const failed = document.querySelector('{ERRORS.split(",")[0]}') !== null;
        return panel.sessionContext.session.kernel.status === 'idle' && (done || failed) }}""", timeout=1000 * seconds)


def status(page):
    return page.locator(".widget-html-content [role=status]").inner_text()


def beside(page):
    """Controls at the left and Run, state and the first figure at the right share a screen of 1280 x 720, and figures fill their place;
    below each other where there are 800 pixels."""
    page.locator(".jupyter-widgets.tta-house").evaluate("e => e.scrollIntoView({block: 'start'})")
    left, run, state, figure, right = (page.locator(f".tta-house {what}").first.bounding_box() for what in (
        ".tta-left", ".jupyter-button", "[role=status]", ".js-plotly-plot", ".tta-charts"))
    assert left["x"] + left["width"] <= run["x"] and max(box["y"] + box["height"] for box in (run, state, figure)) < 720
    assert figure["width"] > 0.9 * min(right["width"], 470)
    size = page.viewport_size
    page.set_viewport_size({"width": 800, "height": 720})
    page.wait_for_function("() => { const [l, r] = ['.tta-left', '.tta-right'].map(c => document.querySelector(c).getBoundingClientRect());"
                           "return l.bottom <= r.top + 1 && l.left === r.left }")
    page.wait_for_function("() => { const f = document.querySelector('.tta-house .js-plotly-plot');"
                           "return f.querySelector('.main-svg').clientWidth <= f.parentElement.clientWidth + 1 }")
    page.set_viewport_size(size)


def fold(page, title):
    """The title of a part of a panel that opens."""
    return page.locator(".jupyter-widgets summary", has_text=title)


def test_notebook_and_panel_in_jupyterlab(tmp_path):
    chromium()
    with_defaults(NOTEBOOK, tmp_path / "notebook.ipynb", TINY)
    with jupyterlab(tmp_path) as address, page_of(tmp_path) as page:
        open_notebook(page, address("notebook.ipynb"))
        run_all(page)
        assert page.locator(ERRORS).all_inner_texts() == []
        assert status(page) == "Nothing has run yet: press Run."
        fold(page, "in words").press("Enter")                             # opened once, it stays open
        words = page.locator(".jupyter-widgets", has_text="Settings: Tent").last
        assert "learning rate 0.005," in words.inner_text()

        page.locator(".jupyter-widgets [role=slider]").first.focus()
        page.keyboard.press("ArrowRight")
        words.get_by_text("learning rate 0.0063,").wait_for(timeout=15_000)  # one tenth of a decade

        page.locator(".jupyter-button", has_text="Run").click()
        page.locator("[role=status]", has_text="Done, 2 rounds. Error in the first round").wait_for(timeout=120_000)
        assert re.search(r"first round \d+\.\d %, in the last \d+\.\d %, which is .* BN-1 .*Learned from \d+ %", status(page))
        drawn = page.evaluate("() => [...document.querySelectorAll('.jupyter-widgets .js-plotly-plot')].map("
                              "f => f.data.map(t => Array.from(t.y ?? []).length))")
        assert drawn == [[2, 0, 2], [2, 2, 2], [41, 41, 41]]
        beside(page)

        rounds = page.locator(".jupyter-widgets [role=slider]").nth(2)
        rounds.focus()
        page.keyboard.press("End")
        words.get_by_text("20 rounds").wait_for(timeout=15_000)
        page.locator(".jupyter-button", has_text="Run").press("Enter")
        page.locator("[role=status]", has_text="Running: round").wait_for(timeout=60_000)
        page.locator(".jupyter-button", has_text="Stop").press("Enter")
        page.locator("[role=status]", has_text="Stopped in round").wait_for(timeout=30_000)
        assert page.locator(ERRORS).all_inner_texts() == []


def test_streams_and_their_panel_in_jupyterlab(tmp_path):
    chromium()
    with_defaults(ROOT / "notebooks" / "02_streams_and_shifts.ipynb", tmp_path / "notebook.ipynb", {"per_shift": 10, "batch": 10})
    with jupyterlab(tmp_path) as address, page_of(tmp_path) as page:
        open_notebook(page, address("notebook.ipynb"))
        run_all(page)
        assert page.locator(ERRORS).all_inner_texts() == []
        assert status(page) == "Nothing has run yet: press Run."
        fold(page, "in words").press("Enter")
        words = page.locator(".jupyter-widgets", has_text="This stream: ").last
        assert "continual: One shift after another" in words.inner_text() and "400 images in 16 batches" in words.inner_text()

        def rows():
            return page.evaluate("() => [...document.querySelectorAll('.jupyter-widgets .js-plotly-plot')][0].data.map("
                                 "t => t.y?.length ?? 0)")

        assert rows() == [4, 10]
        protocol = page.locator(".jupyter-widgets select").first
        protocol.focus()
        page.keyboard.press("ArrowDown")                                  # continual -> gradual, and not to another cell
        words.get_by_text("gradual: Each shift grows").wait_for(timeout=15_000)
        page.wait_for_function("() => document.querySelectorAll('.jupyter-widgets .js-plotly-plot')[0].data.length === 3")  # severities
        protocol.select_option(label="natural")
        page.locator(".jupyter-widgets").get_by_text("fashion_mnist holds no domains of its own").last.wait_for(timeout=15_000)
        page.locator(".jupyter-button", has_text="Run").click()
        page.locator("[role=status]", has_text="Nothing was run, because these settings make no stream").wait_for(timeout=15_000)

        protocol.select_option(label="open_set")
        words.get_by_text("50 % unknown").wait_for(timeout=15_000)
        page.wait_for_function("() => document.querySelectorAll('.jupyter-widgets .js-plotly-plot')[0].data[1].y.length === 11")
        page.locator(".jupyter-button", has_text="Run").press("Enter")
        page.locator("[role=status]", has_text="Done, open_set. Mean error over the domains: source").wait_for(timeout=120_000)
        drawn = page.evaluate("() => [...document.querySelectorAll('.jupyter-widgets .js-plotly-plot')][1].data.map(t => t.y.length)")
        assert drawn == [4, 4, 4]
        assert page.locator(".jupyter-widgets table tr").all_inner_texts()[0].split("\t")[1:4] == [
            "error, mean over domains (%)", "error, all images (%)", "ECE (%)"]

        severity = page.locator(".jupyter-widgets [role=slider]").first
        severity.focus()
        page.keyboard.press("Home")                                       # no shift at all: the severities are 0
        words.get_by_text("open_set: Every batch").wait_for(timeout=15_000)
        page.locator(".jupyter-widgets pre", has_text="severity=0.0").wait_for(state="attached", timeout=15_000)
        fold(page, "rebuilds this stream").press("Enter")
        page.locator(".jupyter-widgets pre", has_text="severity=0.0").wait_for(timeout=15_000)
        assert page.locator(ERRORS).all_inner_texts() == []


def test_zoo_and_its_panel_in_jupyterlab(tmp_path):
    chromium()
    first = {"methods": "source,tent", "streams": "batch_of_one", "stream": "batch_of_one", "method": "tent"}
    with_defaults(ROOT / "notebooks" / "03_method_zoo.ipynb", tmp_path / "notebook.ipynb", first)
    with jupyterlab(tmp_path) as address, page_of(tmp_path) as page:
        open_notebook(page, address("notebook.ipynb"))
        run_all(page)
        assert page.locator(ERRORS).all_inner_texts() == []
        assert status(page).startswith("Nothing has run yet: click a cell of the map")
        page.wait_for_function("() => document.querySelector('.jupyter-widgets .js-plotly-plot')?.data?.length === 3", timeout=60_000)
        page.locator(".jupyter-widgets select").first.evaluate("e => e.scrollIntoView({block: 'start'})")
        where = page.evaluate("""() => {
            const f = document.querySelector('.jupyter-widgets .js-plotly-plot'), l = f._fullLayout, r = f.getBoundingClientRect();
            return [r.x + l.xaxis._offset + l.xaxis.c2p(6), r.y + l.yaxis._offset + l.yaxis.c2p(l.yaxis.ticktext.indexOf('recap'))] }""")
        page.mouse.move(*where)
        page.mouse.click(*where)                                          # a cell of the map: recap on batch of one
        page.locator("[role=status]", has_text="Done, recap on batch of one").wait_for(timeout=120_000)
        assert "reproduced" in status(page) and "NOT" not in status(page)
        page.wait_for_function("() => [...document.querySelectorAll('.jupyter-widgets .js-plotly-plot')].map(f => f.data.length).join() === '3,4,7'")

        method = page.locator(".jupyter-widgets select").nth(4)
        method.focus()
        page.keyboard.press("ArrowDown")                                  # the next method, without a mouse
        after = method.evaluate("e => e.value")
        assert after != "recap"
        page.locator("[role=status]", has_text=f"Done, {after} on batch of one").wait_for(timeout=120_000)
        page.locator(".jupyter-widgets select").nth(1).select_option(label="oracle")
        page.wait_for_function("() => document.querySelector('.jupyter-widgets .js-plotly-plot').data?.[1]?.x?.length === 2")
        fold(page, "without the panel").press("Enter")
        page.locator(".jupyter-widgets pre", has_text="zoo_study.live").wait_for(timeout=15_000)
        assert page.locator(ERRORS).all_inner_texts() == []


def test_collapse_and_its_panel_in_jupyterlab(tmp_path):
    chromium()
    with_defaults(ROOT / "notebooks" / "04_collapse.ipynb", tmp_path / "notebook.ipynb", {"per_shift": 100, "batch": 20, "looked_at": 20, "wild": 100.0})
    with jupyterlab(tmp_path) as address, page_of(tmp_path) as page:
        open_notebook(page, address("notebook.ipynb"))
        run_all(page)
        assert page.locator(ERRORS).all_inner_texts() == []
        assert status(page).startswith("Nothing has run yet: move the slider")
        light = page.locator(".jupyter-widgets .tta-light")
        assert light.get_attribute("data-state") == "none"

        rate = page.locator(".jupyter-widgets [role=slider]").first
        rate.focus()
        page.keyboard.press("ArrowRight")                                 # from x 100 to x 300, which runs at once
        page.locator("[role=status]", has_text="Done, tent at x 300: error").wait_for(timeout=120_000)
        fold(page, "why").press("Enter")
        assert light.get_attribute("data-state") == "alarm" and "ALARM" in light.inner_text() and "At the first alarm" in light.inner_text()
        page.wait_for_function("""() => {
            const [signals, predictions] = [...document.querySelectorAll('.jupyter-widgets .js-plotly-plot')].map(
                f => [f.data?.map(t => t.y?.length), f.querySelectorAll('.trace').length]);
            return signals[0]?.slice(0, 4).join() === '30,30,30,30' && signals[1] >= 4 && predictions[0]?.slice(0, 2).join() === '10,10'
                && predictions[1] >= 4 }""", timeout=60_000)             # given to plotly, and drawn by it

        guard = page.locator(".jupyter-widgets select").nth(3)
        guard.focus()
        page.keyboard.press("ArrowDown")                                  # no guard -> roll back, then a smaller step
        page.locator("[role=status]", has_text="the guard acted").wait_for(timeout=120_000)
        assert "batches answered by method" in status(page)

        rate.focus()
        page.keyboard.press("Home")
        guard.select_option(label="no guard")
        page.locator("[role=status]", has_text="Done, tent at x 0.1: error").wait_for(timeout=120_000)
        page.wait_for_function("() => document.querySelector('.tta-light').dataset.state === 'calm'", timeout=30_000)
        fold(page, "without the panel").press("Enter")
        page.locator(".jupyter-widgets pre", has_text="Setting(factor=0.1").wait_for(timeout=15_000)
        assert page.locator(ERRORS).all_inner_texts() == []


def test_explorer_in_jupyterlab(tmp_path):
    chromium()
    with_defaults(ROOT / "notebooks" / "00_explorer.ipynb", tmp_path / "notebook.ipynb", {"per_shift": 40, "batch": 20})
    with jupyterlab(tmp_path) as address, page_of(tmp_path) as page:
        console = console_errors(page)
        open_notebook(page, address("notebook.ipynb"))
        run_all(page)
        assert page.locator(ERRORS).all_inner_texts() == []
        assert status(page).startswith("Nothing has run yet: press Run")

        def button(name):
            return page.locator(".jupyter-widgets .jupyter-button").get_by_text(name, exact=True)

        def after(text, seconds=120):
            page.locator("[role=status]", has_text=text).wait_for(timeout=1000 * seconds)
            return status(page)

        rate = page.locator(".jupyter-widgets", has_text="learning rate").last.locator("[role=slider]")
        rate.focus()
        page.keyboard.press("ArrowRight")
        page.locator(".jupyter-widgets pre", has_text="'update.lr': 0.00126").wait_for(state="attached", timeout=15_000)
        button("Step").press("Enter")
        assert "20 images (batch 1 of 8" in after("Held, tent lr 0.00126")
        button("Go on").press("Enter")
        done = after("Done, tent lr 0.00126")
        assert re.search(r"160 images: error \d+\.\d %.*source \d+\.\d %, BN-1 \d+\.\d %\. The alarm light cannot judge:", done)
        picture = page.locator(".jupyter-widgets img[alt*='tent lr 0.00126']").first
        assert picture.evaluate("e => e.naturalWidth") > 400
        assert page.locator("[role=slider]:not([aria-label])").count() == 0
        frame = page.locator(".tta-charts .tta-frame").first                          # the value under the pointer, and with the keyboard
        frame.focus()
        page.keyboard.press("ArrowRight")
        page.locator(".tta-tip", has_text="tent lr 0.00126: ").first.wait_for(timeout=15_000)
        page.keyboard.press("Enter")                                      # and the images behind it
        page.locator(".jupyter-widgets", has_text="of 160 images").last.wait_for(timeout=30_000)
        button("▾ images").press("Enter")

        method = page.locator(".jupyter-widgets select", has=page.locator("option", has_text="cotta  (teacher)"))
        method.select_option(label="cotta  (teacher)")                    # slow enough to be stopped
        page.locator(".jupyter-widgets", has_text="CoTTA: learn all weights").last.wait_for(timeout=15_000)
        button("Run anew").or_(button("Run")).press("Enter")
        after("Running cotta")
        button("Stop").press("Enter")
        held = after("Held, cotta", 60)
        page.locator(".jupyter-widgets", has_text="points on the same").last.wait_for(timeout=15_000)

        rows = page.locator(".tta-runs tbody tr")
        assert rows.count() == 2 and page.locator(".tta-runs tbody input:checked").count() == 2
        button("▸ code").press("Enter")
        code = page.locator(".jupyter-widgets pre").first.text_content()
        page.evaluate("""code => {
            const panel = window.jupyterapp.shell.currentWidget, cells = panel.content.widgets;
            panel.content.activeCellIndex = cells.findIndex(c => c.model.sharedModel.source.includes('panel.to_code()'));
            panel.content.activeCell.model.sharedModel.setSource(code);
            window.jupyterapp.commands.execute('notebook:run-cell') }""", code)
        printed = page.locator(".jp-OutputArea-output", has_text=re.compile(r"^error \d+\.\d\d %\s*$"))
        printed.wait_for(timeout=120_000)
        told = float(re.search(r"error ([\d.]+) %", printed.inner_text())[1])
        assert f"error {told:.1f} %" in held                              # the code repeats the run as far as it went
        assert page.locator(ERRORS).all_inner_texts() == [] and console == []
