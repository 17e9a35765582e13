"""Findings and tables: plain text where nobody looks, HTML in a browser; pages without the code that only prepares."""
import html
import re

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from tta_lab.cli import headless
from tta_lab.core.told import told
from tta_lab.studies.report import aligned, paragraphs, tell, told_html

TABLE = aligned([("open set", "first round", "kept"), ("  Tent + filter", "12.3 +- 0.4", "55 %"), ("  BN-1", "9.0", "-")], (-10, 11, 5))
LONG = "Tent ends worse than BN-1 < source, " * 5 + "see above."


def cells_of(page):
    return [[html.unescape(cell) for cell in re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row)] for row in re.findall(r"<tr>(.*?)</tr>", page)]


def test_text_becomes_a_table_and_paragraphs_as_wide_as_the_page():
    assert all(re.search(r"\S {2,}\S", line.strip()) for line in TABLE.split("\n"))       # columns can be told apart
    page = told_html(f"{TABLE}\n\n{paragraphs([LONG, 'Another.'])}", ["x & y"])
    assert cells_of(page) == [["open set", "first round", "kept"], ["Tent + filter", "12.3 +- 0.4", "55 %"], ["BN-1", "9.0", "-"]]
    said = [html.unescape(p) for p in re.findall(r"<p[^>]*>(.*?)</p>", page)]
    assert said == [LONG, "Another.", "x & y"] and "<pre" not in page


def test_labels_and_their_texts_have_no_head():
    page = told_html("Seed:    0\nRounds:  4")
    assert cells_of(page)[-2:] == [["Seed:", "0"], ["Rounds:", "4"]] and not re.findall(r"<th\b", page)


def test_outside_a_notebook_it_is_printed(capsys):
    tell(TABLE, [LONG])
    assert capsys.readouterr().out == f"{TABLE}\n{paragraphs([LONG])}\n"


def test_in_a_notebook_both_forms_are_shown_and_read_back(monkeypatch):
    shown = []
    monkeypatch.setattr("IPython.get_ipython", object)
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    tell([LONG])
    output = new_output("display_data", shown[0])
    assert told(output) == paragraphs([LONG]) + "\n" and LONG in html.unescape(output.data["text/html"])
    picture = new_output("display_data", {"text/plain": "<Figure>", "text/html": "<b>x</b>"})
    last = new_code_cell("x", outputs=[new_output("stream", name="stdout", text="a\n"), output, picture])
    assert headless.printed(new_notebook(cells=[last])) == f"a\n{paragraphs([LONG])}\n"


@pytest.fixture(scope="module")
def page():
    printed = [new_output("stream", name="stdout", text="shown all the same")]
    cells = [new_markdown_cell("<details><summary>How</summary>\n\n- *one*\n\n</details>"),
             new_code_cell("seed: int = 4711", metadata={"tags": ["parameters"]}),
             new_code_cell("import secret_module", metadata={"tags": [headless.HIDDEN]}),
             new_code_cell("assert unseen", outputs=printed, metadata={"tags": [headless.HIDDEN]}),
             new_code_cell("visible()")]
    notebook = new_notebook(cells=cells)
    before = nbformat.writes(notebook)
    made = headless.to_offline_html(notebook, "x")
    assert nbformat.writes(notebook) == before
    return made[made.index("<body"):]


def test_pages_leave_out_code_that_only_prepares_and_fold_parameters(page):
    text = re.sub(r"<[^>]+>", "", page)
    assert "visible" in text and "shown all the same" in text and "secret_module" not in text and "unseen" not in text
    folded = re.search(r"<details><summary>Parameters</summary>(.*?)</details>", page, re.S)[1]
    assert "4711" in folded and text.count("4711") == 1 and "<em>one</em>" in page
