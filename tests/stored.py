"""What is stored of a run of the authors' public code, and its comparison with ours: whatever is
stored is compared, or the comparison fails."""
import csv
import json

import numpy as np
import torch

# what the same tensors are called here
PLACES = {"source_mean": "running_mean", "source_var": "running_var", ".layer.": "."}
SHARED = {
    "hparams", "kind", "outputs", "param_names", "param_change_norms", "param_change_total",
    "error_per_batch", "error_per_seed"
}
# stored key -> (relative, absolute) distance allowed; what is not named here are counts, and
# equal
CLOSE = {
    "extra/outputs_before": (0, 5e-4), "info/anchor_confidence": (0, 1e-5), "info/ema": (1e-3, 0),
    "info/ewc": (2e-3, 0), "info/lambda0": (0, 1e-4), "info/lambda1": (0, 1e-4),
    "info/lambda2": (0, 1e-4), "info/lambda3": (0, 1e-4), "info/loss": (2e-3, 0),
    "info/mean_age": (0, 1e-6), "info/mean_score": (0, 5e-4), "info/param_loss": (2e-3, 0)
}
# of their info/n_at_initial one may differ by rounding: an entry near the quantile flips, or
# meets its start
ROUNDED = ("petal", "psmt")


class Noted(dict):
    """A dict that knows which of its keys were asked for."""

    def __init__(self, *args):
        super().__init__(*args)
        self.asked = set()

    def __getitem__(self, key):
        self.asked.add(key)
        return super().__getitem__(key)

    def get(self, key, default=None):
        self.asked.add(key)
        return super().get(key, default)


def load(path):
    """Everything stored of a run; its settings under "hparams"."""
    with np.load(path) as f:
        found = Noted({key: f[key] for key in f.files})
    found["hparams"] = Noted(json.loads(str(found["hparams"])))
    return found


def rows(path):
    """Run -> row of an index."""
    return {row["run"]: row for row in csv.DictReader(path.read_text().splitlines())}


def unused(expected, spared=()):
    """What no test took from a stored run: numbers of its settings, and what it was given."""
    h = expected["hparams"]
    numbers = {key for key, value in h.items() if not isinstance(value, str) and value is not None}
    return (sorted(numbers - h.asked - set(spared)) +
            sorted(key
                   for key in expected if key.startswith("extra/") and key not in expected.asked))


def spoiled(expected, key):
    """The same run with one number under a key a little wrong."""
    value = expected[key]
    if value.dtype.kind == "U":
        wrong = np.char.add(value, "s")
    elif key.startswith("final/"):
        wrong = value * 1.05
    else:
        wrong = value.astype(float)
        wrong.flat[-1] += 2 if value.dtype.kind == "i" else max(
            0.05 * abs(wrong.flat[-1]), 0.02 * key.startswith(("error", "out", "param_change")))
    return Noted({**expected, key: wrong})


def named(key):
    for theirs, ours in PLACES.items():
        key = key.replace(theirs, ours)
    return key


def differences(row, expected, outputs, y, seen):
    """Outputs (n, batch, 10) of all batches or the first n, and what was seen on the way (stored
    key -> one value a batch), that differ."""
    wrong, n = [], len(outputs)
    outputs = np.exp(outputs) if row["kind"] == "probabilities" else outputs
    difference = np.abs(outputs - expected["outputs"][:n])
    for what, value, allowed in (("first batch", difference[0].max(),
                                  row["tol_first"]), ("maximum", difference.max(), row["tol_max"]),
                                 ("99th percentile", np.quantile(difference,
                                                                 0.99), row["tol_p99"])):
        if value > float(allowed):
            wrong.append(f"outputs: {what} {value:.1e} > {allowed}")
    if str(expected["kind"]) != row["kind"]:
        wrong.append(f"kind {expected['kind']}")
    known = y[:n] >= 0
    errors = ((outputs.argmax(2) != y[:n]) & known).sum(1) / known.sum(1)
    if np.abs(errors - expected["error_per_batch"][:n]).max() > 6e-5:
        wrong.append(f"error_per_batch {errors} instead of {expected['error_per_batch'][:n]}")
    if n == len(y) and abs((outputs.argmax(2) != y)[y >= 0].mean() -
                           float(row["mean_error"])) > 6e-5:
        wrong.append("mean error")
    for key in expected:
        if key.startswith("info/") or key in seen:
            if key not in seen:
                wrong.append(f"{key} is stored, and nothing compared with it")
                continue
            relative, absolute = CLOSE.get(
                key, (0, int(key == "info/n_at_initial" and row["method"].startswith(ROUNDED))))
            if not np.allclose(np.array(seen[key], float), expected[key][:n], rtol=relative,
                               atol=absolute, equal_nan=True):
                wrong.append(f"{key} {seen[key]} instead of {expected[key][:n]}")
        elif key not in SHARED and not key.startswith(("extra/", "final/")):
            wrong.append(f"{key} is stored, and nobody knows what it is")
    return wrong


def changes(row, expected, now, start, tuned, found=None):
    """What differs at the end of a run: sizes of the changes of tensors, of all tuned ones
    together, and values.

    ``now`` and ``start`` name -> tensor ("ema:..." a teacher's); ``found`` name -> size of the
    change, where not that from ``start`` to ``now``.
    """
    wrong, rtol = [], float(row["rtol_param"] or 2e-3)
    names = [named(name) for name in expected["param_names"].tolist()]
    norms = dict(zip(names, expected["param_change_norms"].tolist(), strict=True))
    if strange := set(names) - set(now):
        return [f"param_names: {strange} is not here"]
    found = ({
        name: (now[name].detach() - start[name.removeprefix("ema:")]).norm().item()
        for name in names
    } if found is None else found)
    largest = max(norms.values(), default=0)
    for name, size in norms.items():
        if largest == 0:
            wrong += [f"{name} is not back at the source"] if found[name] else []
        elif size >= 1e-3 * largest and abs(found[name] / size - 1) > rtol:
            wrong.append(f"param_change_norms: {name} by {found[name]:.6f}, not {size:.6f}")
    own = {
        name for name in names
        if not name.startswith("ema:") and not name.endswith(("running_mean", "running_var"))
    }
    if own != {name for name in tuned if not name.startswith("extra.")}:
        wrong.append(f"param_names: tuned parameters differ by {own ^ set(tuned)}")
    together = sum(found[name] ** 2 for name in names if not name.startswith("ema:")) ** 0.5
    if abs(together -
           float(expected["param_change_total"])) > rtol * float(expected["param_change_total"]):
        wrong.append(f"param_change_total {together} instead of {expected['param_change_total']}")
    for key in expected:
        if key.startswith("final/"):
            name = named(key.removeprefix("final/"))
            value = torch.from_numpy(expected[key])
            apart = (now[name].detach() - value).norm().item()
            moved = (value - start[name.removeprefix("ema:")]).norm().item()
            if apart > max(rtol * moved, 1e-5):
                wrong.append(f"{key} is {apart:.1e} away, having moved by {moved:.1e}")
    return wrong
