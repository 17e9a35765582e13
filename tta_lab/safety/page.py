"""The page of a `SafetyReport`: for someone who has to decide and has not read a paper about it."""
from __future__ import annotations

import base64
import math
from html import escape

COLOURS = {"use": "#00694b", "do not use": "#a33c00", "cannot tell": "#5a4a00"}
PALE = {"use": "#e3f4ee", "do not use": "#fdeee6", "cannot tell": "#fbf4d9"}
SIGNS = {"use": "&#10003;", "do not use": "&#10005;", "cannot tell": "?"}
FINDINGS = {"harm": ("&#10005; harm", "#a33c00"), "gain": ("&#10003; gain", "#00694b"), "safe": ("&#10003; no harm", "#00694b"),
            "open": ("? open", "#5a4a00")}
SAID = {"use": "Use it: adapting lowers errors on your images, and no harm was found.",
        "do not use": "Do not use it: adapting this model, in this way, is not safe on your images.",
        "cannot tell": "Cannot tell: the images at hand do not settle whether adapting is safe."}
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


def number(value, digits: int = 1, sign: bool = False, unit: str = "") -> str:
    """A number for the page; "" where there is none."""
    if value is None or not math.isfinite(value):
        return ""
    return f"{value:{'+' if sign else ''}.{digits}f}{unit}".replace("-", "\u2212")


def rows(report) -> list[dict[str, str]]:
    """One dict of texts a situation: Situation, Images, Errors, Change, Answers that flip, Worst stretch, Finding."""
    out = []
    for s in report.situations:
        images = f"{s['images'] - s['unfamiliar']}" + (f" + {s['unfamiliar']}" if s["unfamiliar"] else "")
        labelled = "" if s["failed"] or s["labelled"] == s["images"] - s["unfamiliar"] else f", {s['labelled']} labelled"
        row = {"Situation": s["title"], "Images": f"{images}{labelled}", "Errors": "", "Change": "", "Flips": "", "Worst stretch": ""}
        if s["failed"]:
            row["Errors"] = "stopped"
        elif s["basis"] == "labels":
            row["Errors"] = f"{number(s['source_error'])} \u2192 {number(s['adapted_error'])} %"
            row["Change"] = f"{number(s['difference'], sign=True)} [{number(s['low'], sign=True)}, {number(s['high'], sign=True)}]"
            row["Flips"] = f"{number(s['right_to_wrong'])} % / {number(s['wrong_to_right'])} %"
        else:
            row["Errors"] = "not known"
            row["Change"] = f"at most \u00b1{number(s['high'])}" if math.isfinite(s["high"]) else ""
            row["Flips"] = f"{number(s['changed'])} % change"
        w = s["window"]
        if w:
            row["Worst stretch"] = f"{number(w['worst'], sign=True)} in {w['size']} (chance: {number(w['by_chance'], sign=True)})"
        out.append(row | {"Finding": report.findings[s["name"]][0]})
    return out


def cost(report) -> str:
    """What adapting costs, in a sentence."""
    done = [s for s in report.situations if not s["failed"] and math.isfinite(s["ms"]) and s["batch"] > 1] or [
        s for s in report.situations if not s["failed"] and math.isfinite(s["ms"])]
    if not done:
        return "The cost could not be measured."
    s = done[0]
    text = (f"{number(s['ms'], 2)} ms an image against {number(s['source_ms'], 2)} ms frozen ({number(s['ms'] / s['source_ms'])} times), in "
            f"batches of {s['batch']} on {report.facts['device']}; an image goes {number(s['forwards'])} times forward through the network and "
            f"{number(s['backwards'])} times back.")
    single = next((s for s in report.situations if s["batch"] == 1 and not s["failed"] and math.isfinite(s["ms"])), None)
    if single is not None and single is not s:
        text += f" One image at a time: {number(single['ms'])} ms against {number(single['source_ms'])} ms."
    if math.isfinite(s["memory"]) and s["memory"] > 0:
        text += f" About {max(s['memory'] / 2**20, 1):.0f} MiB more memory in that run."
    return text


def without_labels(report) -> list[str]:
    """What holds without a single label, in sentences."""
    out = []
    done = [s for s in report.situations if not s["failed"]]
    changed = [s for s in done if math.isfinite(s["changed"])]
    if changed:
        most = max(changed, key=lambda s: s["changed"])
        out.append(f"At most {number(most['changed'])} % of the answers differ from the frozen model's ({most['title'].lower()}); errors cannot "
                   "differ by more than that.")
    kept = [s for s in done if math.isfinite(s["classes_kept"])]
    if kept:
        least = min(kept, key=lambda s: s["classes_kept"])
        out.append(f"The adapting model uses at least {min(least['classes_kept'], 1):.0%} of the classes that the frozen one uses "
                   f"({least['title'].lower()}); a fall far below 100 % is collapse, where nearly every image gets the same answer.")
    surer = [s for s in done if math.isfinite(s["adapted_entropy"])]
    if surer:
        s = surer[0]
        out.append(f"Uncertainty of the answers (entropy): {number(s['source_entropy'], 2)} frozen, {number(s['adapted_entropy'], 2)} adapting "
                   f"({s['title'].lower()}); lower alone is no proof of better.")
    raised = [s for s in done if s["alarm_after"] >= 0]
    if raised:
        out.append("The collapse detector raised an alarm: " + ", ".join(f"{s['title'].lower()} after {s['alarm_after']} images ({s['alarm']})"
                                                                         for s in raised) + ".")
    elif any(s["alarm"] == "none" for s in done):
        out.append("The collapse detector, which needs no labels, raised no alarm. It can miss a collapse that is there from the first image.")
    elif not any(s["alarm"].startswith("cannot judge") for s in done):
        out.append("The collapse detector could not be asked.")
    unjudged = [s for s in done if s["alarm"].startswith("cannot judge")]
    if unjudged:
        which = ", ".join(s["title"].lower() for s in unjudged)
        out.append(f"The collapse detector {unjudged[0]['alarm']} ({which}).")
    told = next((s for s in done if math.isfinite(s["adapted_auroc"])), None)
    if told:
        out.append(f"Unfamiliar images can be told from familiar ones with AUROC {number(told['source_auroc'], 2)} frozen, "
                   f"{number(told['adapted_auroc'], 2)} adapting (1 is perfect, 0.5 is guessing; score: energy).")
    return out


def advice(report) -> list[str]:
    """What to do next, in sentences."""
    if report.verdict == "use":
        return ["Keep the frozen model running beside it on a share of the images, and watch for alarms of the collapse detector.",
                "Make this report again when the camera, the place or the kind of images changes.",
                f"No run here was longer than {_longest(report)} images: plan a reset to the frozen model at least that often, or test longer."]
    if report.verdict == "do not use":
        return ["Keep the frozen model.", "Try a smaller learning rate, larger batches, a method that resets or guards itself, or one that was "
                "made for single images, and make this report again."]
    if not any(s["labelled"] >= 30 for s in report.situations):
        return ["Label at least 200 images, chosen at random from your stream, and make this report again."]
    wanted = [s["needed"] for s in report.situations if report.findings[s["name"]][0] == "open" and math.isfinite(s["needed"])]
    more = f"Label more images: about {int(max(wanted)):,} in all would settle it.".replace(",", " ") if wanted and max(wanted) <= 1e5 else (
        "Label more images, chosen at random from your stream.")
    return [more, "Until then keep the frozen model."]


def _longest(report) -> int:
    return max(s["images"] for s in report.situations)


def limits(report) -> str:
    """What the page cannot say, in sentences."""
    return (f"Only these situations were tried, with at most {_longest(report)} images in a row; adapting models can fail later. The images are "
            "taken for a fair sample of those to come; where labels are few, the labelled ones for a fair sample of all. Chance can make a verdict "
            f"wrong: {1 - report.rule.level:.0%} of all intervals miss the truth.")


def figure_png(report) -> bytes | None:
    """The two small figures as one picture, or None without matplotlib."""
    try:
        from ..plots.drawing import png
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
    heads = {"Errors": "Errors<br>frozen &rarr; adapting", "Change": f"Change in points<br>[{report.rule.level:.0%} interval]",
             "Flips": "Right &rarr; wrong /<br>wrong &rarr; right", "Worst stretch": "Worst stretch,<br>change in points"}
    cells = []
    for s, row in zip(report.situations, table, strict=True):
        word, colour = FINDINGS[row["Finding"]]
        tds = [f"<td><b>{escape(row['Situation'])}</b><br><span class='small'>{escape(s['note'])}</span></td>"]
        tds += [f"<td class='n'>{escape(row[k])}</td>" for k in ("Images", "Errors", "Change", "Flips")]
        stretch = escape(row["Worst stretch"]).replace(" (", "<br>(")
        tds += [f"<td class='n'>{stretch}</td>", f"<td class='n' style='color:{colour}'><b>{word}</b></td>"]
        cells.append(f"<tr>{''.join(tds)}</tr>")
    head = "".join(f"<th>{heads.get(k, k)}</th>" for k in table[0])

    def listed(texts):
        return "<ul>" + "".join(f"<li>{escape(t)}</li>" for t in texts) + "</ul>"

    image = f"<img alt='change in error in each situation, and error over time' src='data:image/png;base64,{base64.b64encode(picture).decode()}'>" \
        if picture else "<p class='small'>(The figures need matplotlib.)</p>"
    without = f"<p>{escape(report.without)}</p>" if report.without else ""
    labels = f"{f['labelled']} of {f['images']} images have a label" if f["labelled"] else "none of the images has a label"
    return f"""<div class="safety"><h1>May this model adapt itself while it works?</h1>
<p class="quiet">Safety report of {escape(f['made'])}. Model: {escape(str(f['model']))}. Way of adapting: {escape(f['method'])}.
Images: {escape(f['data'])}; {labels}, up to {f['limit'] or f['images']} were shown in each situation.</p>
<div class="verdict" style="border-color:{COLOURS[v]};background:{PALE[v]}"><b class="big" style="color:{COLOURS[v]}">{SIGNS[v]} {v.upper()}</b>
&nbsp; {escape(SAID[v].split(': ', 1)[1].capitalize())}{listed(report.why[:5])}{without}</div>
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
    return (f"<!doctype html><html lang='en'><head><meta charset='utf-8'><meta name='viewport' content='width=device-width'>"
            f"<title>{escape(title)}</title><style>body{{margin:0;background:#fff}}{STYLE}</style></head><body>{body(report)}</body></html>")


def framed(report) -> str:
    """For a notebook: the style reaches nothing outside the page."""
    return f"<style>{STYLE}</style>{body(report)}"
