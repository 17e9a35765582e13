"""The rule of a safety report, and the verdict by it."""
from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from ..core.arguments import WrongKind, number
from .intervals import WINDOW, design_effect, normal_quantile

FEWEST = 30       # labelled images below which a situation is treated as unlabelled
VERDICTS = ("use", "do not use", "cannot tell")


@dataclass(frozen=True)
class Rule:
    """When adapting counts as safe. Points are percentage points of error.

    harm      tolerated harm: the whole 95 % interval of (adapted error - frozen error) has to lie
              below
    window    tolerated harm in the worst stretch of images
    collapse  least share of the frozen model's effective classes that the adapted model must still
              use
    level     of the intervals; the proof of harm is corrected for the number of situations
              (Bonferroni)
    """

    harm: float = 0.5
    window: float = 3.0
    collapse: float = 0.5
    level: float = 0.95

    def __post_init__(self):
        for name in ("harm", "window", "collapse", "level"):
            object.__setattr__(self, name, number(f"Rule.{name}", getattr(self, name)))
        if not (self.harm >= 0 and self.window > 0 and 0 < self.collapse < 1
                and 0.5 < self.level < 1):
            raise ValueError(f"expected harm >= 0, window > 0, collapse in (0, 1) and level in "
                             f"(0.5, 1), got {self}")

    def text(self) -> str:
        """The rule in words."""
        return (f"Do not use: in some situation the adapting model stops with an error, or uses "
                f"less than {self.collapse:.0%} of the classes the "
                f"frozen one uses, or makes more errors beyond chance (and by more than "
                f"{self.harm:g} points at best estimate), or has a stretch "
                f"more than {self.window:g} points worse, beyond chance; also where no gain is "
                f"possible. Use: in every situation the whole "
                f"{self.level:.0%} interval of the change lies below +{self.harm:g} points and no "
                f"stretch of {WINDOW} images is more than "
                f"{self.window:g} points worse, and in at least one situation errors fall beyond "
                f"chance. Otherwise: cannot tell.")


def rule_of(rule) -> Rule:
    if rule is not None and not isinstance(rule, Rule):
        raise WrongKind(f"rule must be a Rule, such as safety.Rule(harm=1.0), not {rule!r}")
    return rule or Rule()


def labels_needed(harm, rule: Rule, strata=None) -> float:
    """How many labelled images would settle whether the harm is tolerable, if everything goes on
    like this; rounded up to two digits.

    Half an interval, z sqrt(design effect (share of flips - d^2) / n), must fit between the
    difference d and ``rule.harm`` (below it), or between d and 0 (above it). inf where d lies on
    the border.
    """
    harm = np.asarray(harm, np.float64)
    d, z = harm.mean(), normal_quantile(rule.level)
    gap = rule.harm / 100 - d if d < rule.harm / 100 else d
    spread = max(float((harm != 0).mean()), 1 / len(harm)) - d * d
    if gap <= 0:
        return math.inf
    n = max(z * z * design_effect(harm, strata) * spread / gap**2,
            z * z * (1 - min(gap, 0.99)) / gap, FEWEST)
    return float(math.ceil(n / (step := 10 ** max(math.floor(math.log10(n)) - 1, 0))) * step)


def finding(s: dict, rule: Rule, family: int) -> tuple[str, str]:
    """("harm", "safe", "gain" or "open", the reason in a sentence) for one situation; "gain" is
    safe and better beyond chance."""
    if s["failed"]:
        return "harm", f"the adapting model stopped with an error after {s['after']} images"
    if s["basis"] == "labels" and s["low_sure"] > 0 and s["difference"] > rule.harm:
        return "harm", f"errors rise by {s['difference']:.1f} points ({s['source_error']:.1f} to {s['adapted_error']:.1f} %), beyond chance"
    if s["classes_kept"] < rule.collapse:
        return "harm", f"the adapting model collapsed: in some stretch it used only {s['classes_kept']:.0%} of the classes that the frozen model used"
    w = s["window"]
    if w and w["p"] < (1 - rule.level) / family and w["corrected"] > rule.window:
        return "harm", f"in one stretch of {w['size']} images errors rise by {w['worst']:.1f} points, more than chance explains"
    if not s["high"] <= rule.harm:
        if s["basis"] == "none":
            return "open", "nothing could be compared"
        if s["basis"] == "answers":
            alarm = (f"; the collapse detector raised an alarm after {s['alarm_after']} images"
                     if s["alarm_after"] >= 0 else "")
            few = f"only {s['labelled']} labels" if s["labelled"] else "no labels"
            return "open", f"there are {few}, and {s['changed']:.1f} % of the answers change: whether for better or worse is not known{alarm}"
        return "open", (f"the change in error is {s['difference']:+.1f} points, but anything from "
                        f"{s['low']:+.1f} to {s['high']:+.1f} is possible; "
                        f"{_about(s['needed'])}")
    if s["basis"] == "labels" and not w:
        return "open", f"{s['labelled']} labelled images are too few to look at stretches"
    if w and w["worst"] > rule.window and (w["size"] < WINDOW or w["corrected"] > rule.window):
        return "open", (f"one stretch of {w['size']} images is {w['worst']:.1f} points worse, "
                        f"which may be chance; more labelled images are needed "
                        f"({2 * WINDOW} at least)")
    if s["basis"] == "labels" and s["high"] < 0:
        return "gain", f"errors fall by {-s['difference']:.1f} points ({s['source_error']:.1f} to {s['adapted_error']:.1f} %), beyond chance"
    if s["basis"] == "answers":
        return "safe", f"at most {s['high']:.1f} % of the answers change, so errors cannot rise by more"
    return "safe", f"errors change by {s['difference']:+.1f} points; a rise above {s['high']:.1f} can be excluded"


def _about(n: float) -> str:
    if n > 1e5:
        return "it lies so near to what is tolerated that more labels will hardly settle it"
    return f"about {int(n):,} labelled images would settle it".replace(",", " ")


def judge(situations, rule: Rule | None = None) -> dict:
    """The verdict over all situations: ``verdict``, ``why`` (sentences), ``findings`` (name ->
    (finding, reason)), ``without`` (what it would be if the situations that do harm never
    happened, where they are the smaller part, else "")."""
    rule = rule_of(rule)
    found = {s["name"]: finding(s, rule, len(situations)) for s in situations}
    title = {s["name"]: s["title"] for s in situations}
    verdict, why = _verdict(situations, found, title, rule)
    harmful = [n for n, (what, _) in found.items() if what == "harm"]
    rest = [s for s in situations if s["name"] not in harmful]
    without = ""
    if harmful and len(harmful) < len(rest) + (len(situations) == 2):
        second, reasons = _verdict(rest, {s["name"]: found[s["name"]] for s in rest}, title, rule)
        names = " and ".join(f'"{title[n]}"' for n in harmful)
        without = (f"If {names} can never happen in your use, the verdict would be: {second}. "
                   f"{reasons[0]}")
    return {"verdict": verdict, "why": tuple(why), "findings": found, "without": without}


def _verdict(situations, found, title, rule: Rule) -> tuple[str, list[str]]:
    kinds = [what for what, _ in found.values()]

    def said(*which):
        return [f"{title[n]}: {reason}." for n, (what, reason) in found.items() if what in which]

    if "harm" in kinds:
        return "do not use", said("harm")
    if "open" in kinds:
        return "cannot tell", said("open")
    if "gain" in kinds:
        return "use", said("gain") + ["No situation that was tried shows harm above what the rule "
                                      "tolerates."]
    if all(s["low"] >= -rule.harm for s in situations):
        return "do not use", [f"Adapting changes errors by less than {rule.harm:g} points "
                              f"everywhere, so nothing is gained for its cost."]
    return "cannot tell", ["Adapting does no harm, but in no situation that was tried does it "
                           "lower the errors beyond chance."] + said("safe")
