"""A safety report in words."""
from __future__ import annotations

import math

COLORS = {"use": "#00694b", "do not use": "#a33c00", "cannot tell": "#5a4a00"}
PALE = {"use": "#e3f4ee", "do not use": "#fdeee6", "cannot tell": "#fbf4d9"}
SIGNS = {"use": "&#10003;", "do not use": "&#10005;", "cannot tell": "?"}
FINDINGS = {
    "harm": ("&#10005; harm", "#a33c00"), "gain": ("&#10003; gain", "#00694b"),
    "safe": ("&#10003; no harm", "#00694b"), "open": ("? open", "#5a4a00")
}
SUMMARY = {"use": "Use it: adapting lowers errors on your images, and no harm was found.",
        "do not use": "Do not use it: adapting this model, in this way, is not safe on your "
                      "images.",
        "cannot tell": "Cannot tell: the images at hand do not settle whether adapting is safe."}


def number(value, digits: int = 1, sign: bool = False, unit: str = "") -> str:
    """A number for the page; "" where there is none."""
    if value is None or not math.isfinite(value):
        return ""
    return f"{value:{'+' if sign else ''}.{digits}f}{unit}".replace("-", "\u2212")


def rows(report) -> list[dict[str, str]]:
    """One dict of texts a situation: Situation, Images, Errors, Change, Answers that flip, Worst
    stretch, Finding."""
    out = []
    for s in report.situations:
        images = (f"{s['images'] - s['unfamiliar']}" +
                  (f" + {s['unfamiliar']}" if s["unfamiliar"] else ""))
        labelled = ("" if s["failed"] or s["labelled"] == s["images"] - s["unfamiliar"] else
                    f", {s['labelled']} labelled")
        row = {
            "Situation": s["title"], "Images": f"{images}{labelled}", "Errors": "", "Change": "",
            "Flips": "", "Worst stretch": ""
        }
        if s["failed"]:
            row["Errors"] = "stopped"
        elif s["basis"] == "labels":
            row["Errors"] = f"{number(s['source_error'])} \u2192 {number(s['adapted_error'])} %"
            row["Change"] = (f"{number(s['difference'], sign=True)} "
                             f"[{number(s['low'], sign=True)}, {number(s['high'], sign=True)}]")
            row["Flips"] = f"{number(s['right_to_wrong'])} % / {number(s['wrong_to_right'])} %"
        else:
            row["Errors"] = "not known"
            row["Change"] = f"at most \u00b1{number(s['high'])}" if math.isfinite(s["high"]) else ""
            row["Flips"] = f"{number(s['changed'])} % change"
        w = s["window"]
        if w:
            row["Worst stretch"] = (f"{number(w['worst'], sign=True)} in {w['size']} (chance: "
                                    f"{number(w['by_chance'], sign=True)})")
        out.append(row | {"Finding": report.findings[s["name"]][0]})
    return out


def cost(report) -> str:
    """What adapting costs, in a sentence."""
    done = [
        s
        for s in report.situations if not s["failed"] and math.isfinite(s["ms"]) and s["batch"] > 1
    ] or [s for s in report.situations if not s["failed"] and math.isfinite(s["ms"])]
    if not done:
        return "The cost could not be measured."
    s = done[0]
    text = (f"{number(s['ms'], 2)} ms an image against {number(s['source_ms'], 2)} ms frozen "
            f"({number(s['ms'] / s['source_ms'])} times), in "
            f"batches of {s['batch']} on {report.facts['device']}; an image goes "
            f"{number(s['forwards'])} times forward through the network and "
            f"{number(s['backwards'])} times back.")
    single = next((s for s in report.situations
                   if s["batch"] == 1 and not s["failed"] and math.isfinite(s["ms"])), None)
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
        out.append(f"At most {number(most['changed'])} % of the answers differ from the frozen "
                   f"model's ({most['title'].lower()}); errors cannot "
                   "differ by more than that.")
    kept = [s for s in done if math.isfinite(s["classes_kept"])]
    if kept:
        least = min(kept, key=lambda s: s["classes_kept"])
        out.append(f"The adapting model uses at least {min(least['classes_kept'], 1):.0%} of the "
                   f"classes that the frozen one uses "
                   f"({least['title'].lower()}); a fall far below 100 % is collapse, where nearly "
                   f"every image gets the same answer.")
    surer = [s for s in done if math.isfinite(s["adapted_entropy"])]
    if surer:
        s = surer[0]
        out.append(f"Uncertainty of the answers (entropy): {number(s['source_entropy'], 2)} "
                   f"frozen, {number(s['adapted_entropy'], 2)} adapting "
                   f"({s['title'].lower()}); lower alone is no proof of better.")
    raised = [s for s in done if s["alarm_after"] >= 0]
    if raised:
        out.append("The collapse detector raised an alarm: " +
                   ", ".join(f"{s['title'].lower()} "
                             f"after {s['alarm_after']} images ({s['alarm']})"
                             for s in raised) + ".")
    elif any(s["alarm"] == "none" for s in done):
        out.append("The collapse detector, which needs no labels, raised no alarm. It can miss a "
                   "collapse that is there from the first image.")
    elif not any(s["alarm"].startswith("cannot judge") for s in done):
        out.append("The collapse detector could not be asked.")
    unjudged = [s for s in done if s["alarm"].startswith("cannot judge")]
    if unjudged:
        which = ", ".join(s["title"].lower() for s in unjudged)
        out.append(f"The collapse detector {unjudged[0]['alarm']} ({which}).")
    told = next((s for s in done if math.isfinite(s["adapted_auroc"])), None)
    if told:
        out.append(f"Unfamiliar images can be told from familiar ones with AUROC "
                   f"{number(told['source_auroc'], 2)} frozen, "
                   f"{number(told['adapted_auroc'], 2)} adapting (1 is perfect, 0.5 is guessing; "
                   f"score: energy).")
    return out


def advice(report) -> list[str]:
    """What to do next, in sentences."""
    if report.verdict == "use":
        return ["Keep the frozen model running beside it on a share of the images, and watch for "
                "alarms of the collapse detector.",
                "Make this report again when the camera, the place or the kind of images changes.",
                f"No run here was longer than {_longest(report)} images: plan a reset to the "
                f"frozen model at least that often, or test longer."]
    if report.verdict == "do not use":
        return ["Keep the frozen model.", "Try a smaller learning rate, larger batches, a method "
                                          "that resets or guards itself, or one that was "
                "made for single images, and make this report again."]
    if not any(s["labelled"] >= 30 for s in report.situations):
        return ["Label at least 200 images, chosen at random from your stream, and make this "
                "report again."]
    wanted = [
        s["needed"] for s in report.situations
        if report.findings[s["name"]][0] == "open" and math.isfinite(s["needed"])
    ]
    more = f"Label more images: about {int(max(wanted)):,} in all would settle it.".replace(
        ",", " ") if wanted and max(wanted) <= 1e5 else (
            "Label more images, chosen at random from your stream.")
    return [more, "Until then keep the frozen model."]


def _longest(report) -> int:
    return max(s["images"] for s in report.situations)


def limits(report) -> str:
    """What the page cannot say, in sentences."""
    return (f"Only these situations were tried, with at most {_longest(report)} images in a row; "
            f"adapting models can fail later. The images are "
            "taken for a fair sample of those to come; where labels are few, the labelled ones "
            "for a fair sample of all. Chance can make a verdict "
            f"wrong: {1 - report.rule.level:.0%} of all intervals miss the truth.")
