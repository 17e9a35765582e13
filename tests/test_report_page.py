"""Kept runs as one page for readers without Jupyter, and the command that makes it."""
import base64
import copy
import io
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import tta_lab.__main__ as command
from tta_lab import continual
from tta_lab.experiments.experiment import REFERENCES, Experiment, Session
from tta_lab.experiments.kept_runs import KeptRun, KeptRuns
from tta_lab.methods import make
from tta_lab.studies.explorer import page

CHOICE = Experiment(stream=continual(shifts=("fog", "contrast"), per_shift=100, batch=50))
EVIL = '<img src=x onerror="1">&'


class Elements(HTMLParser):
    """All elements of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.found, self.text = [], ""
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.found.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def all(self, tag):
        return [attrs for t, attrs in self.found if t == tag]


@pytest.fixture(scope="module")
def runs():
    known, found = {}, []
    for lr in (1e-3, 1e-1):
        session = Session(replace(CHOICE, recipe=make("tent", **{"update.lr": lr})), device="cpu", known=known)
        while session.advance():
            pass
        found.append(KeptRun(EVIL, session.choice, session.traces["choice"],
                             {REFERENCES[n]: t for n, t in session.traces.items() if n != "choice"},
                             facts={"model": CHOICE.model}))
    return found


@pytest.fixture(scope="module")
def text(runs):
    return page.report_page([runs[0], replace(runs[1], name="fast", choice=None, missing="its <images> have no name")])


def error(trace):
    wrong = trace["prediction"] != trace["label"]
    return 100 * np.mean([wrong[trace["domain"] == d].mean() for d in np.unique(trace["domain"])])


def test_the_page_says_what_was_run_and_found(runs, text):
    seen = Elements(text)
    for trace in (runs[0].trace, runs[1].trace, runs[0].references["source"], runs[0].references["BN-1"]):
        assert f"{error(trace):.1f}" in seen.text
    for words in ("learning rate 0.001", "200 images in 4 batches", "fog, contrast", "Seed 0", "points", "on the same 200 images", "Alarm",
                  f"torch {runs[0].trace.meta['torch']}", "cannot be repeated from this page: its <images> have no name"):
        assert words in seen.text, words
    assert runs[0].choice.to_code() in seen.text and len(seen.all("details")) == 1 and "open" not in seen.all("details")[0]


def test_the_page_needs_nothing_beside_itself_and_every_name_is_escaped(runs, text):
    seen = Elements(text)
    assert len(text.encode()) < 1_000_000 and EVIL in seen.text and EVIL not in text
    assert not [tag for tag, _ in seen.found if tag in ("script", "link", "iframe", "button", "input")] and "url(" not in text
    images = seen.all("img")
    assert len(images) == 1 + 3 + 2 and all(len(i["alt"]) > 20 and i["src"].startswith("data:image/png;base64,") for i in images)
    assert [i.get("class") for i in images].count("tta-figure") == 1 + 2 + 2  # photographs are not turned round
    photographs = next(i["src"] for i in images if i.get("class") is None)
    alpha = np.asarray(Image.open(io.BytesIO(base64.b64decode(photographs.partition(",")[2]))).convert("RGBA"))[..., 3]
    assert (alpha == 0).mean() > 0.3  # and stand on the page's own ground
    assert "prefers-color-scheme: dark" in text and not any("onerror" in attrs for _, attrs in seen.found)
    assert f"{error(runs[0].trace):.1f}" in images[0]["alt"] and "fast" in images[0]["alt"]


def test_runs_without_labels_of_other_streams_and_too_many(runs, monkeypatch):
    bare = copy.deepcopy(runs[0])
    for trace in (bare.trace, *bare.references.values()):
        trace["label"][:] = -1
    bare.name, bare.choice = "bare", None
    bare.trace.meta["stream"]["hash"] = "another"
    monkeypatch.setattr(page, "LARGEST", 60_000)
    seen = Elements(page.report_page([runs[1], bare]))
    assert "like the source" in seen.text and "answers like source" in seen.text and seen.text.count("over the stream of") == 2
    assert "were left out to keep the page small" in seen.text and len(seen.all("img")) < 6


def test_what_cannot_be_reported_is_said(runs, tmp_path):
    with pytest.raises(ValueError, match="no run to report"):
        page.report_page([])
    with pytest.raises(ValueError, match="'empty' has seen no images"):
        page.report_page([KeptRun("empty", None, runs[0].trace.head(0))])
    with pytest.raises(ValueError, match="is a folder; name a file"):
        page.write_report(runs, tmp_path)


def test_the_command_makes_a_page_of_saved_runs(runs, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(command.bootstrap, "ensure", lambda *a, **k: None)
    kept = KeptRuns()
    for run in runs:
        kept.add(replace(run, name="run"))
    one, two = kept.save(tmp_path / "kept")
    out = tmp_path / "new" / "page.html"
    assert command.main(["report", str(one), "-o", str(out)]) == 0 and str(out) in capsys.readouterr().out
    assert "run (2)" not in out.read_text() and [p.name for p in out.parent.iterdir()] == ["page.html"]
    assert command.main(["report", str(two), str(tmp_path), "-o", str(out)]) == 0 and "2 runs" in capsys.readouterr().out
    assert re.findall("<h2>(run[^<]*)</h2>", out.read_text()) == ["run (2)", "run"]
    before = out.read_bytes()
    two.write_text("{")
    for wrong, why in ((tmp_path / "none", "no folder"), (out, "no saved run"), (tmp_path, "could not be loaded")):
        assert command.main(["report", str(wrong), "-o", str(out)]) == 2 and why in capsys.readouterr().err
    assert out.read_bytes() == before


def test_the_command_is_told_of():
    done = subprocess.run([sys.executable, "-m", "tta_lab", "report", "--help"], capture_output=True, text=True)
    assert done.returncode == 0 and "NAME.run.json" in done.stdout and command.COMMANDS["report"][1] == "notebooks"
