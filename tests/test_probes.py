"""probes: gradients and votes against hand-worked and independent numbers, adapters left as they
were, figures that carry the numbers."""
import copy
import functools
import math
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from test_plots import BACKENDS, panels, plot
from tiny import given, stream, tiny
from torch import nn

from tta_lab import Stream, load_model, run
from tta_lab import plots as P
from tta_lab.analysis import probes as Q
from tta_lab.components.norms.batch_norm import RunningStatistics, SourceStatistics
from tta_lab.components.selectors import SELECTORS, ConfidenceRise, EntropyThreshold, RandomKeep
from tta_lab.core.adapter import Adapter
from tta_lab.core.parts import AllParameters, Selector, SlidingWindow, Step
from tta_lab.methods import METHODS, make
from tta_lab.plots import probes as drawn


class Line(nn.Module):
    """Two logits, 0 and w x + b."""

    def __init__(self):
        super().__init__()
        self.w, self.b = nn.Parameter(torch.tensor([1.0])), nn.Parameter(torch.tensor([0.05]))

    def forward(self, x):
        m = self.w * x + self.b
        return torch.cat([torch.zeros_like(m), m], 1)


@dataclass(frozen=True)
class Only(Selector):
    """Learns from one row."""

    row: int = 0

    def weights(self, ctx, losses, keep, state):
        return torch.nn.functional.one_hot(torch.tensor(self.row), len(losses)).to(losses.dtype)


def toy():
    return Adapter(
        Line(),
        make("tent", train=AllParameters(), norm=SourceStatistics(), rule="sgd", lr=0.5,
             momentum=0.0))


X = torch.tensor([[1.0], [1.0], [-0.1]])


@functools.cache
def batch(n=12):
    x, y = stream("s1")
    return x.flatten(0, 1)[:n].expand(-1, 3, -1, -1).contiguous(), y.flatten()[:n]


def adapter(name="tent", net="tinybn", steps=2, **settings):
    """An adapter that has learned from some batches."""
    recipe = name if not isinstance(name, str) else make(name, **settings)
    made = Adapter(tiny(net), recipe, seed=3, source_info=given(recipe, net), record="source")
    x, _ = stream("s1")
    images = x.flatten(0, 1).expand(-1, 3, -1, -1)
    for at in range(steps):
        made(images[20 * at + 12:20 * at + 32].contiguous())
    return made


def equal(a, b):
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    if isinstance(a, torch.Tensor):
        return (a.dtype == b.dtype and torch.equal(torch.nan_to_num(a.double(), 7e77),
                                                   torch.nan_to_num(b.double(), 7e77)))
    return a == b or a != a and b != b


# --- the numbers


def sigmoid(m):
    return 1 / (1 + math.exp(-m))


def test_the_toy_vote_by_hand():
    """m = w x + b with w = 1, b = 0.05: m = 1.05, 1.05, -0.05; dH/dm = -m s(m) s(-m). Together the
    third sample's confidence falls below one half (it changes class), alone it rises."""
    pull = [-m * sigmoid(m) * sigmoid(-m) for m in (1.05, 1.05, -0.05)]
    w = 1 - 0.5 * (pull[0] + pull[1] - 0.1 * pull[2]) / 3
    b = 0.05 - 0.5 * sum(pull) / 3
    together = [sigmoid(w + b), sigmoid(w + b), sigmoid(0.1 * w - b)]
    one = (1 - 0.5 * pull[0], 0.05 - 0.5 * pull[0])
    three = (1 + 0.05 * pull[2], 0.05 - 0.5 * pull[2])
    alone = [sigmoid(sum(one)), sigmoid(sum(one)), sigmoid(0.1 * three[0] - three[1])]
    found = Q.counterfactual_vote(toy(), X, labels=torch.tensor([1, 1, 1]))
    np.testing.assert_allclose(
        found["before"], [sigmoid(1.05), sigmoid(1.05), sigmoid(0.05)], rtol=1e-6)
    np.testing.assert_allclose(found["together"], together, rtol=1e-6)
    np.testing.assert_allclose(found["alone"], alone, rtol=1e-6)
    assert together[2] == pytest.approx(0.4979036, abs=1e-6) and alone[2] == pytest.approx(
        0.5140734, abs=1e-6)
    assert found["self_change"][2] > 0 > found["batch_change"][2] and (found["batch_change"][:2]
                                                                       > 0).all()
    assert found["source_class"].tolist() == [1, 1, 0] and found["rise"].tolist() == [
        0, 0, 0
    ] and found["moved"]
    rows = Q.summary(found)
    assert rows["wrong"]["outvoted"] == 1 and rows["correct"]["outvoted"] == 0 and list(rows) == [
        "correct", "wrong"
    ]


def test_the_toy_gradients_by_hand():
    # g = dH/dm (x, 1): a (1, 1), a (1, 1), c (-0.1, 1) with a < 0 < c
    a, c = (-m * sigmoid(m) * sigmoid(-m) for m in (1.05, -0.05))
    g = np.array([[a, a], [a, a], [-0.1 * c, c]])
    found = Q.gradient_crowd(toy(), X)
    cosine = lambda u, v: u @ v / np.linalg.norm(u) / np.linalg.norm(v)  # noqa: E731
    np.testing.assert_allclose(found["norm"], np.linalg.norm(g, axis=1), rtol=1e-5)
    np.testing.assert_allclose(found["crowd"], [cosine(row, g.sum(0)) for row in g], rtol=1e-5)
    np.testing.assert_allclose(found["others"], [cosine(row,
                                                        g.sum(0) - row) for row in g], rtol=1e-5)
    np.testing.assert_allclose(found["peers"], [1, 1, np.nan], rtol=1e-5)
    np.testing.assert_allclose(found["vote"], g @ g.sum(0) / (g.sum(0) @ g.sum(0)), rtol=1e-5)
    assert found["others"][2] < 0 and found["vote"].sum() == pytest.approx(1) and list(
        found["groups"]) == ["all"]
    assert found["mean_norm"] == pytest.approx(np.linalg.norm(g.mean(0)), rel=1e-5)
    assert found["coherence"] == pytest.approx(
        np.linalg.norm(g.mean(0)) / np.linalg.norm(g, axis=1).mean(), rel=1e-5)


def test_gradients_pass_through_the_statistics_of_the_whole_batch():
    """An independent network in training mode, differentiated sample by sample."""
    x, _ = batch()
    net = tiny("tinybn").train()
    params = [p for m in net.modules() if isinstance(m, nn.BatchNorm2d) for p in m.parameters()]
    p = net(x).softmax(1)
    losses = -(p * p.log()).sum(1)
    g = np.stack([
        np.concatenate([
            v.flatten().double().numpy()
            for v in torch.autograd.grad(loss, params, retain_graph=True)
        ]) for loss in losses
    ])
    found = Q.gradient_crowd(adapter(steps=0), x)
    unit = g / np.linalg.norm(g, axis=1, keepdims=True)
    others = g.sum(0) - g
    peers = np.stack([g[(p.argmax(1) == c).numpy()].sum(0) for c in p.argmax(1)]) - g
    np.testing.assert_allclose(found["norm"], np.linalg.norm(g, axis=1), rtol=1e-4)
    np.testing.assert_allclose(found["crowd"], unit @ g.sum(0) / np.linalg.norm(g.sum(0)),
                               atol=1e-4)
    np.testing.assert_allclose(found["others"],
                               (unit * others).sum(1) / np.linalg.norm(others, axis=1), atol=1e-4)
    alone = np.linalg.norm(peers, axis=1) < 1e-9
    assert (np.isnan(found["peers"]) == alone).all() and not alone.all()
    np.testing.assert_allclose(
        found["peers"][~alone],
        ((unit * peers).sum(1)[~alone] / np.linalg.norm(peers[~alone], axis=1)), atol=1e-4)
    # Tent's step is the mean gradient
    np.testing.assert_allclose(found["step"], found["crowd"], atol=1e-5)
    assert found["loss"] == pytest.approx(losses.detach().numpy(), abs=1e-5)


def test_some_rows_are_those_rows_of_all():
    x, y = batch()
    made = adapter()
    for function in (Q.gradient_crowd, Q.counterfactual_vote):
        whole = function(made, x, y)
        some = function(made, x, y, rows=[7, 2, 3])
        for key, value in some.items():
            if isinstance(value, np.ndarray):
                np.testing.assert_allclose(value, whole[key][[7, 2, 3]], rtol=1e-6, err_msg=key)
        for group, mask in some["groups"].items():
            assert mask.tolist() == whole["groups"][group][[7, 2, 3]].tolist()


@pytest.mark.parametrize(
    "recipe", [
        make("tent", lr=1e-2),
        make("tent", rule="sgd", lr=0.1),
        make("sar", lr=0.1, rho=0.5, select=()),
        make("wisdom_of_crowds", lr=1e-2),
        make("tent", norm=RunningStatistics(), lr=1e-2),
    ], ids=lambda r:
    f"{type(r).__name__}-{type(r.update).__name__}-{type(r.norm).__name__}-{r.update.rule}")
def test_votes_are_the_steps_that_the_adapter_would_make(recipe):
    """Together: the real next step. Alone: the real next step of a twin that keeps one row and has
    no penalties."""
    x, _ = batch()
    made = adapter(recipe)
    found = Q.counterfactual_vote(made, x, moments="kept", rows=[0, 5])

    def confidence(twin):
        twin(x)
        with torch.no_grad():
            return twin.model(x).double().softmax(1).gather(
                1,
                torch.from_numpy(classes)[:, None])[:, 0].numpy()

    classes = Q.counterfactual_vote(made, x)["source_class"]
    state = made.state_dict()
    twin = adapter(recipe, steps=0)
    twin.load_state_dict(copy.deepcopy(state))
    np.testing.assert_allclose(found["together"], confidence(twin)[[0, 5]], rtol=1e-6)
    for at, row in enumerate((0, 5)):
        single = replace(recipe, select=(Only(row),), penalties=())
        twin = adapter(single, steps=0)
        states = {**state["states"], "select": [{}], "penalties": []}
        twin.load_state_dict(copy.deepcopy({**state, "recipe": repr(single), "states": states}))
        assert confidence(twin)[row] == pytest.approx(found["alone"][at], rel=1e-6)
    assert np.abs(found["self_change"]).min() > 1e-7 and np.abs(found["batch_change"]).min() > 1e-7


def test_empty_moments_forget_the_crowd_of_earlier_batches():
    x, _ = batch()
    made = adapter(lr=1e-2)
    empty, kept = (Q.counterfactual_vote(made, x, moments=m, rows=range(4))
                   for m in ("empty", "kept"))
    assert np.abs(empty["alone"] - kept["alone"]).max() > 1e-4
    fresh = Q.counterfactual_vote(made, x, update=Step(rule="adam", lr=1e-2), rows=range(4))
    np.testing.assert_array_equal(empty["alone"], fresh["alone"])
    made.scale_rate(0.0)
    # the step size as it stands now
    assert not Q.counterfactual_vote(made, x, rows=[0])["self_change"].any()
    with pytest.raises(ValueError, match="moments must be"):
        Q.counterfactual_vote(made, x, moments="kept", update=Step())


def test_gradients_held_a_few_at_a_time_are_the_same(monkeypatch):
    x, _ = batch()
    made = adapter("sar", lr=0.1)
    before = Q.counterfactual_vote(made, x, rows=range(5))
    monkeypatch.setattr(Q, "GRADIENTS", 2 * sum(p.numel() for p in made.tuned.values()))
    np.testing.assert_array_equal(
        Q.counterfactual_vote(made, x, rows=range(5))["alone"], before["alone"])


def test_a_step_that_is_not_made_changes_nothing():
    x, _ = batch()
    made = adapter(make("tent").where(EntropyThreshold(0.0)))
    found = Q.counterfactual_vote(made, x, rows=[1])
    crowd = Q.gradient_crowd(made, x, rows=[1])
    assert not found["moved"] and found["batch_change"].tolist() == [
        0
    ] and found["self_change"][0] != 0
    assert np.isnan(crowd["step"]).all() and np.isfinite(
        crowd["crowd"]).all() and not crowd["kept"].any()


# --- nothing is changed


@pytest.mark.parametrize("name, settings", [
    ("tent", {}),
    ("tent", {"rule": "sgd", "lr": 0.01}),
    ("wisdom_of_crowds", {}),
    ("eata", {}),
    ("sar", {}),
    ("cotta", {"views": 2}),
    ("roid", {}),
    ("tent", {"norm": RunningStatistics()}),
    ("tent", {"select": (RandomKeep(0.5), ConfidenceRise())}),
], ids=lambda v: v if isinstance(v, str) else "-".join(map(str, v)))
def test_an_adapter_is_the_same_bits_afterwards(name, settings):
    x, y = batch()
    made, twin = adapter(name, **settings), adapter(name, **settings)

    def timeless(state):
        trace = {table: {k: v for k, v in columns.items() if k != "seconds"}
                 for table, columns in state["trace"].items()}
        return {**state, "trace": trace}

    before, shared = copy.deepcopy(timeless(made.state_dict())), {}
    made.shared_source = shared
    Q.gradient_crowd(made, x, y, rows=[0, 1])
    Q.counterfactual_vote(made, x, y, rows=[0, 1])
    assert equal(before, timeless(made.state_dict()))
    assert made.shared_source is shared and not shared
    assert all(p.grad is None for p in made.tuned.values())
    made.shared_source = None
    for _ in range(2):
        assert torch.equal(made(x), twin(x))
    assert equal(timeless(made.state_dict()), timeless(twin.state_dict()))


def test_an_adapter_is_the_same_after_a_probe_that_fails():
    made = adapter()
    before = copy.deepcopy(made.state_dict())
    with pytest.raises(RuntimeError), made.isolated():
        with torch.no_grad():
            next(iter(made.tuned.values())).add_(1)
        raise RuntimeError
    assert equal(before, made.state_dict())


def test_a_probe_in_a_run_sees_each_batch_before_it_is_learned_from():
    shown = Stream("fashion_mnist", ("fog", "contrast"), per_shift=24, batch=12, rounds=2,
                   unknown="digits", unknown_ratio=0.5)
    seen = []

    def look(adapter, x, labels, known, ids):
        seen.append((adapter.steps, ids.tolist(), adapter.predict(x, ids)))
        return {
            "rows": np.arange(len(x)), "label": np.asarray(labels),
            "groups": {"all": np.ones(len(x), bool)}
        }

    def made():
        return Adapter(load_model("fashion_resnet_bn"), make("tent", lr=1e-2), record="source")

    steps = Q.steps_of(shown, 0) + Q.steps_of(shown, -1)
    assert steps == [0, 2, 4, 6]
    watched = made()
    probe = Q.Probe(watched, shown, steps,
                    (look, functools.partial(Q.gradient_crowd, rows=[0, 15])))
    trace, plain = run(watched, shown, each=probe), run(made(), shown)
    for name in ("id", "entropy", "loss", "rise_source", "label"):
        np.testing.assert_array_equal(trace[name], plain[name])
    assert trace.step("forwards").sum() == plain.step("forwards").sum()
    assert [step for step, _, _ in seen] == steps == [found["step"] for found in probe.results]
    for step, ids, logits in seen:
        rows = trace["step"] == step
        assert trace["id"][rows].tolist() == ids
        # Tent answers before it learns
        np.testing.assert_allclose(
            logits.softmax(1).amax(1).numpy(), trace["confidence"][rows], rtol=1e-6)
    assert [found["round"] for found in probe.results
            ] == [0, 0, 1, 1] and {found["domain"]
                                   for found in probe.results} == {"fog", "contrast"}
    pooled = probe.numbers("gradient_crowd", round=1)
    assert len(pooled["crowd"]) == 4 and set(pooled["groups"]) <= {
        "correct", "wrong", "unknown"
    } and pooled["groups"]["unknown"].sum() == 2
    assert probe.numbers("look")["label"].shape == (72,)
    with pytest.raises(ValueError, match="steps 0 to 7, not"):
        Q.Probe(watched, shown, [8])
    with pytest.raises(ValueError, match="rounds 0 to 1, not 2"):
        Q.steps_of(shown, 2)
    with pytest.raises(ValueError, match="no probes"):
        probe.numbers("look", round=7)


def test_a_probe_knows_that_the_run_resets():
    shown = Stream("fashion_mnist", ("fog", "contrast"), per_shift=24, batch=12)
    for rule, home in (("never", [True, False,
                                  False]), ("domain", [True, False,
                                                       True]), ("batch", [True, True, True])):
        made = Adapter(load_model("fashion_resnet_bn"), make("tent", lr=1e-2))
        found = []

        def look(adapter, found=found, **_):
            found.append(
                all(
                    torch.equal(adapter.tuned[name], adapter.origin[name])
                    for name in adapter.tuned))
            return {}

        run(
            made, shown, reset=rule, each=Q.Probe(made, shown, [0, 1, 2],
                                                  (lambda adapter, x, look=look, **_: look(adapter),
                                                   )))
        assert found == home, rule


# --- groups, refusals


def test_groups_follow_the_labels():
    x, _ = batch()
    made = adapter()
    prediction = Q.gradient_crowd(made, x)["prediction"]
    labels = torch.from_numpy(prediction).clone()
    labels[0] = (labels[0] + 1) % 10
    labels[1] = 10
    labels[2] = -1
    groups = Q.gradient_crowd(made, x, labels)["groups"]
    assert [np.flatnonzero(groups[g]).tolist()
            for g in ("correct", "wrong", "unknown")] == [list(range(3, 12)), [0], [1]]
    known = torch.ones(12, dtype=torch.bool)
    known[3] = False
    groups = Q.gradient_crowd(made, x, labels, known)["groups"]
    assert np.flatnonzero(groups["unknown"]).tolist() == [3] and np.flatnonzero(
        groups["wrong"]).tolist() == [0, 1]


@pytest.mark.parametrize("name, settings, why", [
    ("batch_norm", {}, "learns nothing by gradients"), ("rotta", {}, "from a memory, a window or "
                                                                     "image by image"),
    ("memo", {"views": 2}, "from a memory"), ("tent", {"cadence": SlidingWindow(4)}, "a window"),
])
def test_methods_without_a_crowd_are_refused(name, settings, why):
    made = adapter(name, steps=0, **settings)
    for function in (Q.gradient_crowd, Q.counterfactual_vote):
        with pytest.raises(ValueError, match=why):
            function(made, batch()[0])


def test_what_cannot_be_probed_is_named():
    x, _ = batch()
    with pytest.raises(ValueError, match=r"for classifiers.*\(12, 5, 16, 16\)"):
        Q.gradient_crowd(Adapter(tiny("tinyseg"), make("tent")), x)
    for rows in ([12], [-1], []):
        with pytest.raises(ValueError, match="rows must be some of 0 to 11"):
            Q.gradient_crowd(adapter(steps=0), x, rows=rows)
    with pytest.raises(ValueError, match="NaN"):
        Q.gradient_crowd(adapter(steps=0), x * math.nan)


def test_summary_and_pool_by_hand():
    groups = {"correct": np.array([1, 0, 1, 0], bool), "wrong": np.array([0, 1, 0, 1], bool)}
    one = {
        "rows": np.arange(4),
        **{k: np.array([.5, -.5, .1, np.nan]) for k in Q.COSINES}, "norm": np.array([1., 2, 3, 4]),
        "vote": np.array([.5, -.25, .5, .25]), "mean_norm": 1.0, "groups": groups
    }
    two = {**one, "mean_norm": 2.0, "groups": {"unknown": np.ones(4, bool)}}
    rows = Q.summary(one)
    assert rows["correct"]["others"] == pytest.approx(
        .3) and rows["wrong"]["others"] == -.5 and rows["wrong"]["against"] == .5
    assert rows["correct"]["vote"] == 1 and rows["wrong"]["vote"] == 0 and rows["wrong"][
        "images"] == .5 and rows["wrong"]["norm"] == 3
    both = Q.pool([one, two])
    assert both["mean_norm"] == 1.5 and len(both["vote"]) == 8 and both["vote"].sum() == 1
    assert both["groups"]["unknown"].tolist(
    ) == [False] * 4 + [True] * 4 and both["groups"]["wrong"].sum() == 2
    vote = {
        "rows": np.arange(3), "self_change": np.array([.1, .2, -.1]),
        "batch_change": np.array([-.1, .1, -.3]), "groups": {"all": np.ones(3, bool)}
    }
    row = Q.summary(vote)["all"]
    assert (row["rises_alone"], row["rises_together"], row["outvoted"]) == pytest.approx(
        (2 / 3, 1 / 3, 1 / 3))
    assert row["batch_change"] == pytest.approx(-.1)


# --- pixels


LABEL = np.array([[[0, 1], [3, 255]], [[3, 3], [3, 255]]])
SAYS = np.array([[[0, 0], [1, 1]], [[0, 1], [2, 0]]])


def picture():
    images = np.linspace(0, 1, 24).reshape(2, 3, 2, 2)
    logits = torch.nn.functional.one_hot(torch.from_numpy(SAYS), 3).movedim(-1, 1).float()
    return Q.open_set_picture(torch.from_numpy(images), LABEL, {"source": logits, "Tent": SAYS},
                              unknown=(3,))


def test_open_set_picture_by_hand():
    found = picture()
    assert found["wrong"]["source"].tolist() == [[[False, True], [False, False]],
                                                 [[False, False], [False, False]]
                                                 ] == found["wrong"]["Tent"].tolist()
    assert found["unknown"].tolist() == [[[False, False], [True, False]],
                                         [[True, True], [True, False]]]
    np.testing.assert_allclose(found["error"]["source"], [50, np.nan])
    np.testing.assert_allclose(found["unknown_share"], [1 / 3, 1])
    with pytest.raises(ValueError, match=r"'source' has shape \(2, 1, 2\)"):
        Q.open_set_picture(found["images"], LABEL, {"source": SAYS[:, :1]})
    with pytest.raises(ValueError, match="label .n, H, W. are needed"):
        Q.open_set_picture(found["images"], LABEL[0], {})


# --- figures


def crowd(seed=0):
    draw = np.random.default_rng(seed)
    values = {k: draw.uniform(-1, 1, 30) for k in ("crowd", "others", "peers", "step")}
    masks = {g: np.arange(30) % 3 == i for i, g in enumerate(("correct", "wrong", "unknown"))}
    return {
        "rows": np.arange(30), **values, "norm": draw.uniform(0, 1, 30),
        "vote": draw.uniform(-.2, .5, 30), "groups": masks
    }


def votes(seed=0):
    draw = np.random.default_rng(seed)
    return {
        "rows": np.arange(30), "self_change": draw.normal(0, .01, 30),
        "batch_change": draw.normal(0, .01, 30), "groups": crowd()["groups"]
    }


@pytest.mark.parametrize("backend", BACKENDS)
def test_figures_carry_the_numbers(backend):
    early, late = crowd(0), crowd(1)
    figure = plot("gradient_crowd", {"round 0": early, "round 9": late}, backend=backend,
                  cosine="peers", bins=4)
    share = np.histogram(late["peers"][late["groups"]["wrong"]], np.linspace(-1, 1, 5))[0] / 10
    if backend == "plotly":
        assert [list(t.y[:-1]) for t in figure.data
                if t.name == "known, wrong"][1] == share.tolist()
        assert figure.layout.annotations[1].text == "round 9"
    else:
        assert [
            p.get_data().values.tolist() for p in panels(figure)[1].patches
            if p.get_label() == "known, wrong"
        ] == [share.tolist()]
        assert panels(figure)[1].get_title() == "round 9"
    figure = plot("crowd_vote", early, backend=backend)
    rows = Q.summary(early)
    heights = [row["vote"] for row in rows.values()]
    bars = (figure.data[1].y if backend == "plotly" else
            [bar.get_height() for bar in panels(figure)[0].containers[1]])
    np.testing.assert_allclose(bars, heights)
    figure = plot("counterfactual_vote", {"early": votes(0), "late": votes(1)}, backend=backend)
    mask = votes(1)["groups"]["wrong"]
    if backend == "plotly":
        x, y = [(t.x, t.y) for t in figure.data
                if t.name == "known, wrong" and t.mode == "markers"][1]
        bars = {t.name: t.y for t in figure.data if t.type == "bar"}
        ranges = [figure.layout.xaxis.range, figure.layout.xaxis2.range]
    else:
        x, y = next(line.get_data() for line in panels(figure)[1].lines
                    if line.get_label() == "known, wrong")
        bars = {
            c.get_label(): [bar.get_height() for bar in c] for c in panels(figure)[2].containers
        }
        ranges = [axis.get_xlim() for axis in panels(figure)]
    np.testing.assert_allclose(
        (x, y), (100 * votes(1)["self_change"][mask], 100 * votes(1)["batch_change"][mask]))
    np.testing.assert_allclose(bars["rise in the batch, late"],
                               [row["rises_together"] for row in Q.summary(votes(1)).values()])
    with pytest.raises(ValueError, match="room for two"):
        P.plot_counterfactual_vote(dict.fromkeys("abc", votes()))
    assert tuple(ranges[0]) == tuple(
        ranges[1]) and ranges[0][0] < x.min() and x.max() < ranges[0][1]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("name, numbers", [("gradient_crowd", crowd()), ("crowd_vote", crowd()),
                                           ("counterfactual_vote", votes())])
def test_numbers_without_a_finite_value_are_explained(name, numbers, backend):
    for broken in ({
            k: v if k in ("groups", "rows") else np.full(30, np.nan) for k, v in numbers.items()
    }, {k: {} if k == "groups" else v[:0] for k, v in numbers.items()}):
        if name == "crowd_vote" and broken["groups"]:
            continue        # the shares of the images are there still
        figure = plot(name, broken, backend=backend)
        texts = ([a.text for a in figure.layout.annotations] if backend == "plotly" else
                 [t.get_text() for axis in panels(figure) for t in axis.texts])
        assert any(text.startswith("Nothing to draw") for text in texts)
    with pytest.raises(ValueError, match="cosine must be one of"):
        P.plot_gradient_crowd(crowd(), cosine="loss")


@pytest.mark.parametrize("backend", BACKENDS)
def test_wrong_and_unknown_pixels_are_tinted(backend):
    figure = plot("open_set_picture", picture(), backend=backend)
    if backend == "matplotlib":
        # first image of the second row
        shown = np.asarray(panels(figure)[0].images[2].get_array(), float)
        grey = shown[0, 0]
        orange = shown[0, 1]
        blue = shown[1, 0]
        assert np.ptp(
            grey) == 0 and orange[0] - orange[2] > 100 and blue[2] - blue[0] > 60 and np.ptp(
                shown[1, 1]) == 0
        words = [text.get_text() for text in panels(figure)[0].texts]
        assert words[0].startswith("33 %") and words[2].startswith(
            "50 %") and words[3] == "nothing known"
    assert "Nothing" in str(
        plot("open_set_picture",
             {**picture(), "images": np.zeros((0, 3, 2, 2)), "unknown_share": [], "wrong": {}},
             backend="plotly").layout.annotations)


RECIPES = [*METHODS, "crowd", "chain"]


def recipe(name):
    if name == "crowd":
        return make("eata").where(ConfidenceRise(0.1))
    return (make("wisdom_of_crowds").where(
        *(kind() for kind in SELECTORS.values())) if name == "chain" else make(name))


def overlap(a, b):
    return min(a[2], b[2]) - max(a[0], b[0]) > 1e-6 and min(a[3], b[3]) - max(a[1], b[1]) > 1e-6


@pytest.mark.parametrize("name", [
    name if name in ("tent", "sar", "rotta", "crowd",
                     "chain") else pytest.param(name, marks=pytest.mark.slow) for name in RECIPES
])
def test_nothing_in_a_procedure_overlaps(name):
    """Text stays in its box, boxes stay apart, no arrow crosses a box, every box but the images is
    reached."""
    figure = P.plot_procedure(recipe(name))
    figure.draw_without_rendering()
    axis, = figure.axes
    boxes, arrows = drawn.procedure(recipe(name))
    rectangles = [(b.x, b.y, b.right, b.bottom) for b in boxes]
    assert not any(overlap(a, b) for i, a in enumerate(rectangles) for b in rectangles[:i])
    width, height = axis.get_xlim()[1], axis.get_ylim()[0]
    assert all(a[0] >= 0 and a[1] >= 0 and a[2] <= width and a[3] <= height for a in rectangles)
    texts = []
    for text in axis.texts:
        box = text.get_window_extent().transformed(axis.transData.inverted())
        texts.append((min(box.x0, box.x1), min(box.y0, box.y1), max(box.x0,
                                                                    box.x1), max(box.y0, box.y1)))
        assert text.get_fontsize() >= 12
    for i, (words, place) in enumerate(zip(axis.texts, texts, strict=True)):
        inside = [
            r for r in rectangles
            if r[0] <= words.get_position()[0] <= r[2] and r[1] <= words.get_position()[1] <= r[3]
        ]
        assert len(inside) == (0 if words.get_text().startswith("one step") else 1)
        assert all(r[0] <= place[0] and place[2] <= r[2] and r[1] <= place[1] and place[3] <= r[3]
                   for r in inside), words.get_text()
        assert not any(overlap(place, other) for other in texts[:i])
    reached = set()
    for line, _ in arrows:
        for (x0, y0), (x1, y1) in zip(line, line[1:], strict=False):
            assert x0 == x1 or y0 == y1
            piece = (min(x0, x1) - 1e-3, min(y0, y1) - 1e-3, max(x0, x1) + 1e-3, max(y0, y1) + 1e-3)
            inner = [(r[0] + 0.01, r[1] + 0.01, r[2] - 0.01, r[3] - 0.01) for r in rectangles]
            assert not any(overlap(piece, r) for r in inner)
        reached |= {
            i for i, r in enumerate(rectangles) if r[0] - 1e-6 <= line[-1][0] <= r[2] +
            1e-6 and r[1] - 1e-6 <= line[-1][1] <= r[3] + 1e-6
        }
    assert {boxes[i].role for i in set(range(len(boxes))) - reached} == {"images"}


def test_a_procedure_says_what_the_recipe_is():
    text = {
        b.title: " ".join(b.lines)
        for b in drawn.procedure(make("wisdom_of_crowds", tolerance=0.1, lr=0.02))[0]
    }
    text = {" ".join(k): v for k, v in text.items()}
    assert list(text) == [
        "Answer", "Images", "Adapted model", "Source model", "Loss per image: "
        "Wisdom of crowds", "1. Confidence rise", "Average", "plus diversity", "Update: step"
    ]
    assert "keep d >= -0.1" in text["1. Confidence rise"] and "lr 0.02" in text[
        "Update: step"] and "weight 0.5" in text["plus diversity"]
    assert "the images kept" in text["Average"] and "step on the penalties alone" in text[
        "Average"] and "before the update" in text["Answer"]
    tent = drawn.procedure(make("tent", answer="after", average="all"))[0]
    assert [b.role for b in tent] == ["answer", "images", "adapted", "loss", "step", "step"
                                      ] and "after the update" in " ".join(tent[0].lines)
    chain = [b.title[0] for b in drawn.procedure(recipe("crowd"))[0] if b.role == "select"]
    assert chain == ["1. Entropy threshold", "2. Non redundant", "3. Entropy weight",
                         "4. Confidence rise"]
    assert [b.role for b in drawn.procedure(make("source"))[0]] == ["answer", "images", "adapted"]
    with pytest.raises(TypeError, match="plot_procedure draws a recipe"):
        P.plot_procedure("tent")


def luminance(colour):
    parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
    return sum(w * (v / 12.92 if v <= 0.03928 else ((v + 0.055) / 1.055)**2.4)
               for w, v in zip((.2126, .7152, .0722), parts, strict=True))


@pytest.mark.parametrize("dark", [False, True])
def test_a_procedure_is_legible_on_white_and_on_black(dark):
    figure = P.plot_procedure(make("wisdom_of_crowds"), dark=dark)
    axis, = figure.axes
    inks = {text.get_color() for text in axis.texts}
    assert len(inks) == 1
    for face in {faces[dark] for faces in drawn.INKS.values()} | {"#14171c" if dark else "#ffffff"}:
        one, two = sorted((luminance(face), luminance(next(iter(inks)))))
        assert (two + 0.05) / (one + 0.05) >= 7
    live = P.plot_procedure(make("wisdom_of_crowds"), backend="plotly", dark=dark)
    words = " ".join(a.text for a in live.layout.annotations)
    assert "keep d >= 0" in words.replace("<br>", " ") and sum(s.type == "rect"
                                                               for s in live.layout.shapes) == 9
    with pytest.raises(ValueError, match="ax is for"):
        P.plot_procedure(make("tent"), backend="plotly", ax=axis)
