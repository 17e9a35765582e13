"""The page of a `SafetyReport`: for someone who has to decide and has not read a paper about it."""
from __future__ import annotations

import base64
from html import escape

from .wording import (
    COLORS,
    FINDINGS,
    PALE,
    SIGNS,
    SUMMARY,
    advice,
    cost,
    limits,
    rows,
    without_labels,
)

STYLE = """
.safety{font:13px/1.4 "Segoe UI",Helvetica,Arial,sans-serif;color:#1a1a1a;background:#fff;max-width:900px;margin:0 auto;padding:14px 18px}
.safety h1{font-size:20px;margin:0 0 2px}.safety h2{font-size:14px;margin:12px 0 4px}.safety p{margin:3px 0}.safety ul{margin:3px 0;padding-left:20px}
.safety .quiet{color:#4d4d4d;font-size:12px}.safety .verdict{border-left:8px solid;padding:8px 14px;margin:8px 0;font-size:14px}
.safety .verdict b.big{font-size:18px}.safety table{border-collapse:collapse;width:100%;font-size:12px}
.safety th,.safety td{text-align:left;padding:3px 6px;border-bottom:1px solid #ccc;vertical-align:top}
.safety th{border-bottom:2px solid #555;font-weight:600}.safety td.n{white-space:nowrap}.safety img{width:100%;max-width:860px}
.safety .small{font-size:11px;color:#4d4d4d}
@media print{@page{size:A4;margin:9mm}.safety{padding:0;max-width:none;font-size:10.5px;line-height:1.3}.safety h1{font-size:17px}
.safety h2{font-size:12px;margin:6px 0 2px}.safety .verdict{font-size:11.5px;margin:5px 0;padding:5px 10px;-webkit-print-color-adjust:exact;
print-color-adjust:exact}.safety .verdict b.big{font-size:15px}.safety table{font-size:9.5px}.safety .small,.safety .quiet{font-size:9px}
.safety img{max-width:620px;display:block;margin:0 auto}}
"""


def figure_png(report) -> bytes | None:
    """The two small figures as one picture, or None without matplotlib."""
    try:
        from ..plots import png
        from .figures import plot_safety
        figure = plot_safety(report.to_dict())
    except ImportError:
        return None
    figure.set_size_inches(11, 3.5)
    return png(figure)


def body(report) -> str:
    """The page without the frame of a document."""
    f, v = report.facts, report.verdict
    picture = figure_png(report)
    table = rows(report)
    heads = {
        "Errors": "Errors<br>frozen &rarr; adapting", "Change": f"Change in "
        f"points<br>[{report.rule.level:.0%} interval]",
        "Flips": "Right &rarr; wrong /<br>wrong &rarr; right",
        "Worst stretch": "Worst stretch,<br>change in points"
    }
    cells = []
    for s, row in zip(report.situations, table, strict=True):
        word, color = FINDINGS[row["Finding"]]
        tds = [f"<td><b>{escape(row['Situation'])}</b><br><span "
               f"class='small'>{escape(s['note'])}</span></td>"]
        tds += [
            f"<td class='n'>{escape(row[k])}</td>" for k in ("Images", "Errors", "Change", "Flips")
        ]
        stretch = escape(row["Worst stretch"]).replace(" (", "<br>(")
        tds += [f"<td class='n'>{stretch}</td>", f"<td class='n' "
                                                 f"style='color:{color}'><b>{word}</b></td>"]
        cells.append(f"<tr>{''.join(tds)}</tr>")
    head = "".join(f"<th>{heads.get(k, k)}</th>" for k in table[0])

    def listed(texts):
        return "<ul>" + "".join(f"<li>{escape(t)}</li>" for t in texts) + "</ul>"

    image = f"<img alt='change in error in each situation, and error over time' src='data:image/png;base64,{base64.b64encode(picture).decode()}'>" \
        if picture else "<p class='small'>(The figures need matplotlib.)</p>"
    without = f"<p>{escape(report.without)}</p>" if report.without else ""
    labels = (f"{f['labelled']} of {f['images']} images have a label"
              if f["labelled"] else "none of the images has a label")
    return f"""<div class="safety"><h1>May this model adapt itself while it works?</h1>
<p class="quiet">Safety report of {escape(f['made'])}. Model: {escape(str(f['model']))}. Way of adapting: {escape(f['method'])}.
Images: {escape(f['data'])}; {labels}, up to {f['limit'] or f['images']} were shown in each situation.</p>
<div class="verdict" style="border-color:{COLORS[v]};background:{PALE[v]}"><b class="big" style="color:{COLORS[v]}">{SIGNS[v]} {v.upper()}</b>
&nbsp; {escape(SUMMARY[v].split(': ', 1)[1].capitalize())}{listed(report.why[:5])}{without}</div>
<h2>What to do next</h2>{listed(advice(report))}
<h2>The evidence</h2>
<p class="small">Both models saw the same images. <b>Frozen</b>: the model as it was delivered. <b>Adapting</b>: the same model, learning from the
images it sees, without labels. <b>Points</b>: percentage points of error; above 0 is worse. <b>Interval</b>: intervals made in this way hold the
true change in {report.rule.level:.0%} of all cases. <b>Stretch</b>: images that follow one another; the worst of many is bad by chance alone, so what
chance explains (in 95 % of cases) is given with it.</p>
<table><tr>{head}</tr>{''.join(cells)}</table>
{image}
<h2>What can be said without labels</h2>{listed(without_labels(report))}
<h2>Cost</h2><p>{escape(cost(report))}</p>
<h2>What this page does not say</h2>
<p class="small">{escape(limits(report))}</p>
<p class="small"><b>Rule.</b> {escape(report.rule.text())}<br><b>Settings.</b> {escape(f['recipe'])}; batch {f['batch']}, seed
{f['seed']}.</p></div>"""


def html(report) -> str:
    """A whole document that needs nothing beside itself."""
    title = f"{report.verdict}: {report.facts['method']} on {report.facts['data']}"
    return (
        f"<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' "
        f"content='width=device-width'>"
        f"<title>{escape(title)}</title><style>body{{margin:0;background:#fff}}{STYLE}</style></head><body>{body(report)}</body></html>"
    )


def framed(report) -> str:
    """For a notebook: the style reaches nothing outside the page."""
    return f"<style>{STYLE}</style>{body(report)}"
