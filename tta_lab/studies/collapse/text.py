"""Watched runs in sentences that follow their numbers."""
from __future__ import annotations

import numpy as np

from ...components.controllers.collapse_detector import ALARMS
from ...core.trace import Trace
from ...experiments.runner import row
from ..explorer.study import say_beside
from ..report import errors, nothing, share, signed
from .study import GUARDS, batch_classes, inside

ALARM_NAMES = {"broken_outputs": "broken outputs", "few_classes": "few classes",
        "stuck_classes": "classes stuck", "overconfident": "overconfident",
        "drifting_weights": "weights drift", "gradients": "gradients",
        "unlike_source": "unlike the source"}
LIGHTS = {"none": ("○", "not watched", "#555555"), "unsure": ("?", "cannot judge", "#555555"),
          "calm": ("●", "calm", "#0072B2"), "doubtful": ("▲", "doubtful", "#B35900"),
          "alarm": ("■", "ALARM", "#C00000")}


def light(numbers: dict) -> tuple[str, str]:
    """A name of LIGHTS and what it means, for the last step: alarm; doubtful (probability above 50
    %, or an alarm earlier); unsure (no alarm, and the detector cannot judge); calm; none. With
    labels the error of the last images stands beside that of the references."""
    if not len(numbers["step"]) or not np.isfinite(numbers["probability"][-1]):
        return "none", "nobody watches this run"
    p = float(numbers["probability"][-1])
    alarm = int(numbers["alarm"][-1])
    chance = (f"probability of collapse {100 * p:.0f} %, alarm above "
              f"{100 * numbers['threshold']:.0f} %")
    earlier = np.flatnonzero(numbers["alarm"] > 0)
    state = "calm"
    summary = f"no alarm; {chance}"
    if alarm:
        state = "alarm"
        summary = f"{ALARM_NAMES[ALARMS[alarm]]}; {chance}"
    elif len(earlier):
        state = "doubtful"
        summary = f"first alarm in step {numbers['step'][earlier[0]]}, none now; {chance}"
    elif numbers.get("cannot_judge"):
        state = "unsure"
        summary = numbers["cannot_judge"]
    elif p > 0.5:
        state = "doubtful"
        summary = f"no alarm yet; {chance}"
    errors = {"this run": numbers["error"][-1],
              **{name: e[-1] for name, e in numbers["errors"].items() if len(e)}}
    beside = say_beside({name: float(e) for name, e in errors.items()},
                        f"error of the last {numbers['recent']}").rstrip(".")
    return state, summary + (f"; {beside[0].lower()}{beside[1:]}" if beside else "")


def say_run(numbers: dict, name: str = "This run") -> str:
    """A run in a sentence."""
    whole = numbers["whole"]
    alarms = np.flatnonzero(numbers["alarm"] > 0)
    others = errors(whole, "")
    text = (f"{name}: error {whole['']:.1f} %" + (f" ({others})" if others else "")
            + f", {numbers['error'][-1]:.1f} % at the end")
    text += (f"; first alarm in step {numbers['step'][alarms[0]]} of {len(numbers['step'])} "
             f"({ALARM_NAMES[ALARMS[numbers['alarm'][alarms[0]]]]})" if len(alarms)
             else "; no alarm")
    if not len(alarms) and numbers.get("cannot_judge"):
        text += f", but the detector cannot judge: {numbers['cannot_judge']}"
    if numbers["actions"]:
        listed = ", ".join(f"{what} in step {step}" for step, what in numbers["actions"][:4])
        text += (f"; the guard acted {_times(len(numbers['actions']))}: "
                 f"{listed}{', ...' if len(numbers['actions']) > 4 else ''}")
    if numbers["answered"]:
        text += "; batches answered by " + ", ".join(
            f"{who} {share(part)}" for who, part in numbers["answered"].items())
    return text + "."


def _times(n: int) -> str:
    return {1: "once", 2: "twice"}.get(n, f"{n} times")


def _cosine(value: float) -> str:
    return signed(value, 2) if np.isfinite(value) else "not defined"


def say_inside(found: dict) -> list[str]:
    """`inside` in sentences."""
    n = inside(found)
    lines = [f"{when.capitalize()} the run: error {v['error']:.0f} % on these "
             f"{len(found[when]['loss'])} images; median entropy {v['entropy']:.2g} nats, median "
             f"gradient {v['norm']:.2g}; rank correlation of the two {_cosine(v['correlation'])}; "
             f"cosine of an image's gradient with that of the others: {_cosine(v['others_right'])} "
             f"where the answer is right, {_cosine(v['others_wrong'])} where it is wrong (medians)."
             for when, v in n.items()]
    a = n["before"]
    b = n["after"]
    if a["correlation"] > 0.3:
        lines.append("Before the run unsure images pull hardest, as SAR observed; of the surer "
                     f"half {share(a['wrong_sure'])} are wrong, of the other half "
                     f"{share(a['wrong_unsure'])}.")
    if b["error"] > a["error"] + 10 and b["entropy"] < a["entropy"]:
        lines.append("Afterwards the model is wrong more often and yet surer: of the surer half "
                     f"{share(b['wrong_sure'])} are wrong, of the other half "
                     f"{share(b['wrong_unsure'])}. A rule that learns only from sure images "
                     "would learn these.")
    return lines


def say_falling(numbers: dict, name: str) -> str:
    """`falling` in a sentence."""
    first, last = ({k: share(numbers[k][at]) for k in ("correct", "wrong", "wrong_risen")}
                   for at in (0, -1))
    return (f"{name}: of the wrong answers {first['wrong']} have fallen in the first stretch and "
            f"{last['wrong']} in the last, of the right ones {first['correct']} and "
            f"{last['correct']}; among the images that rose, {first['wrong_risen']} and then "
            f"{last['wrong_risen']} are wrong.")


def say_truth(watched: dict) -> str:
    """Whether, by labels, the run collapsed, and how the first alarm lies to that."""
    truth = watched["truth"]
    first = watched["first_alarm"]
    if truth["established"] < 0:
        outcome = {"from_start": "it was bad from the start, by no learning",
                   "recovered": "it was harmed and recovered"}.get(truth["outcome"],
                                                                   f"it is {truth['outcome']}")
        return f"By labels this run did not collapse: {outcome}. " + (
            f"The first alarm is in step {first}." if first >= 0 else "There is no alarm.")
    lead = truth["established"] - first
    when = "there is no alarm" if first < 0 else (
        f"the first alarm is in step {first}, " + (
            "in the same batch" if lead == 0 else f"{abs(lead)} "
                                                  f"batch{'es' if abs(lead) > 1 else ''} "
                                                  f"{'before' if lead > 0 else 'after'} that"))
    return (f"By labels the harm sets in at step {truth['onset']} and collapse is established in "
            f"step {truth['established']}; {when}.")


def say_few_classes(shift: Trace, collapsed: Trace, part: float = 0.5) -> str:
    """What both runs have in common, and what tells them apart, over the last ``part`` of each."""
    lines = []
    facts = []
    for name, trace in (("Shift of the labels", shift), ("Collapse", collapsed)):
        b = batch_classes(trace)
        late = slice(int(len(trace.step("step")) * (1 - part)), None)
        alarms = int((np.nan_to_num(trace.step("alarm")) > 0).sum())
        facts.append((float(np.median(b["marginal"][late])), alarms))
        summary = f"alarm in {alarms} of {len(b['step'])} steps" if alarms else "no alarm"
        lines.append(f"{name}: a batch holds {np.median(b['true'][late]):.1f} true classes and "
                     f"{np.median(b['predicted'][late]):.1f} predicted ones, exp of the entropy of "
                     f"its mean prediction {facts[-1][0]:.1f} (medians over the last "
                     f"{100 * part:.0f} %); error {row(trace)['error']:.1f} %; {summary}.")
    (a, quiet), (b, loud) = facts
    lines.append(f"An alarm on the marginal entropy of batches {'cannot' if a <= b else 'could'} "
                 "tell the two apart here" + (": where it finds the collapse it also calls the "
                                              "shift of the labels one" if a <= b else "")
                 + "; the detector " + ("tells the two apart: it looks at more than one batch, and "
                                        "at what the weights do." if loud and not quiet
                                        else "does not tell them apart here."))
    return "\n".join(lines)


def say_sweep(numbers: dict) -> list[str]:
    """`sweep` in sentences: what the guard saves, what it costs."""
    mean = {what: {g: v.mean(1) for g, v in numbers[what].items()}
            for what in ("error", "last", "cost", "actions")}
    bare = mean["error"][""]
    others = [g for g in numbers["error"] if g]
    best = int(bare.argmin())
    better = min(float(v.mean()) for v in numbers["beside"].values())
    lines = [f"Without a guard: the least error is {bare[best]:.1f} % at "
             f"{numbers['factor'][best]:g} times the rate; at {numbers['factor'][-1]:g} times it "
             f"is {bare[-1]:.1f} %. The better of source and BN-1 has {better:.1f} %."]
    for g in others:
        gain = bare - mean["error"][g]
        most = int(gain.argmax())
        least = int(gain.argmin())
        saves = "it saves nothing at any rate" if gain[most] < 0 or nothing(gain[most]) else \
            f"it saves most at {numbers['factor'][most]:g} times the rate, {gain[most]:.1f} points"
        lines.append(f"Guard ({GUARDS[g]}): {saves}; " + (
                         "it costs nothing in error anywhere here. "
                         if gain[least] > 0 or nothing(gain[least])
                         else f"it costs most at {numbers['factor'][least]:g} times, "
                              f"{-gain[least]:.1f} points. ")
                     + f"The worst error with it is {mean['error'][g].max():.1f} %, without it "
                       f"{bare.max():.1f} %. It asks for {mean['cost'][g].mean():.1f} forwards an "
                       f"image instead of {mean['cost'][''].mean():.1f}.")
    return lines
