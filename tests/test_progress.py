"""One bar for notebook and terminal: one line, with tqdm and without, and none of it on stderr in
a notebook."""
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tta_lab.experiments import progress
from tta_lab.experiments.progress import Progress

ROOT = Path(__file__).parents[1]
WITHOUT = ("import sys; sys.modules['tqdm'] = sys.modules['tqdm.std'] = "
           "sys.modules['tqdm.notebook'] = None\n")
BAR = """
from tta_lab.experiments.progress import Progress
bar = Progress(1000, True, every=0)
for i in range(10):
    bar.step(50, f"stream, method, seed {i}")
    bar.skip(50)
bar.close()
"""


def terminal(code):
    env = dict(os.environ, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, timeout=120)
    out = done.stdout.decode().replace(os.linesep, "\n")
    err = done.stderr.decode().replace(os.linesep, "\n")
    assert done.returncode == 0, err
    return out, err


@pytest.mark.parametrize("before", ["", WITHOUT], ids=["tqdm", "plain"])
def test_one_line_in_a_terminal(before):
    out, err = terminal(before + BAR)
    assert out == "" and err.count("\n") == 1 and err.endswith("\n") and "100" in err.split(
        "\r")[-1] and "stream, method, seed 9" in err
    out, err = terminal(before + BAR.replace("range(10)", "range(3)"))
    assert err.count("\n") == 1 and "30" in err.split(
        "\r")[-1], "a run that is stopped ends its line too"
    out, err = terminal(before + BAR.replace("True", "False"))
    assert out == err == ""


def test_a_comparison_shows_one_line_and_the_package_needs_no_tqdm():
    code = """
import torch
from tta_lab import Stream, runs
from tta_lab.data.image_set import ImageSet
images = ImageSet("toy", torch.zeros(40, 1, 8, 8, dtype=torch.uint8), torch.arange(40) % 4, tuple("abcd"))
model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4))
stream = Stream(images, ("none", "fog"), per_shift=20, batch=10)
for key, trace in runs({"one": "source", "two": "source"}, stream, model, (0, 1), progress=True, device="cpu"):
    pass
"""
    for before in ("", WITHOUT):
        out, err = terminal(before + code)
        assert out == "" and err.count("\n") == 1 and err.endswith("\n") and "100" in err.split(
            "\r")[-1]


def test_a_run_that_ends_early_closes_its_bar(monkeypatch):
    closed = []

    class Bar:
        initial = 0

        def update(self, n):
            pass

        def close(self):
            closed.append(1)

    monkeypatch.setattr(progress, "_bar", lambda total, every: Bar())
    import torch
    from test_streams import toy

    from tta_lab import Adapter, Stream, make, run
    adapter = Adapter(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 4)),
                      make("source"), device="cpu")
    run(adapter, Stream(toy(), per_shift=20), progress=True, stop=lambda: True)
    assert closed == [1]
    mine = Progress(1000, True)
    run(adapter, Stream(toy(), per_shift=20), progress=mine)
    assert closed == [1] and mine.done == 120, "a bar that was handed in goes on"


@pytest.mark.parametrize("before", ["", WITHOUT], ids=["tqdm", "plain"])
def test_nothing_on_stderr_in_a_notebook(before):
    nbformat = pytest.importorskip("nbformat")
    from nbclient import NotebookClient
    notebook = nbformat.v4.new_notebook(cells=[
        nbformat.v4.new_code_cell(f"import sys; "
                                  f"sys.path.insert(0, "
                                  f"{str(ROOT)!r})\n" + before + BAR)
    ])
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = notebook.cells[0].outputs
    assert outputs and not [o for o in outputs if o.get("name") == "stderr"]
    if before:
        assert "".join(o.text for o in outputs).count("\n") == 1
    else:
        assert len(outputs) == 1 and "application/vnd.jupyter.widget-view+json" in outputs[0].data
