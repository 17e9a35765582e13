"""Orders: permutations, their statistics against the law that they promise, determinism."""
import math
from dataclasses import dataclass

import pytest
import torch

from tta_lab import Stream
from tta_lab.experiments.experiment import stream_code
from tta_lab.streams.orders import (
    ClassImbalance,
    Dirichlet,
    KeyedGenerator,
    LabelShift,
    Recorded,
    Shuffled,
    SortedByClass,
    from_dict,
    known_orders,
)

LABELS = torch.arange(10).repeat(200)          # 2 000 images, 10 classes


def classes_per_batch(labels, batch=64):
    return [len(part.unique()) for part in labels.split(batch) if len(part) == batch]


@pytest.mark.parametrize("order", [kind() for kind in known_orders().values()] + [
    Dirichlet(0.01),
    Dirichlet(1000.0),
    Dirichlet(0.1, "rotta"),
    SortedByClass(shuffle_classes=True),
    ClassImbalance(grouped=True)
], ids=repr)
def test_every_order_is_deterministic_and_covers_what_it_should(order):
    rows = order.arrange(LABELS, len(LABELS), KeyedGenerator(3, "a"))
    assert rows.dtype == torch.int64 and rows.shape == (
        2000,) and rows.min() >= 0 and rows.max() < 2000
    assert torch.equal(rows, order.arrange(LABELS, len(LABELS), KeyedGenerator(3, "a")))
    if not order.replacement:
        assert rows.sort().values.tolist() == list(range(2000))
    other = order.arrange(LABELS, len(LABELS), KeyedGenerator(4, "a"))
    assert torch.equal(rows, other) == order.recorded
    assert from_dict(order.to_dict()) == order


def test_an_order_does_not_touch_the_global_generator():
    before = torch.get_rng_state()
    Dirichlet(0.1).arrange(LABELS, 2000, KeyedGenerator(0, "a"))
    assert torch.equal(before, torch.get_rng_state())


def test_sorted_by_class():
    rows = SortedByClass().arrange(LABELS, 2000, KeyedGenerator(0, "a"))
    assert torch.equal(LABELS[rows],
                       LABELS.sort().values) and rows[:200].tolist() != sorted(rows[:200].tolist())
    mixed = LABELS[SortedByClass(shuffle_classes=True).arrange(LABELS, 2000, KeyedGenerator(0,
                                                                                            "a"))]
    assert int(
        (mixed[1:] != mixed[:-1]).sum()) == 9 and mixed.unique_consecutive().tolist() != list(
            range(10))


def test_dirichlet_strength():
    """delta 1000 gives every slot the same mixture, 0.01 shows at most 3 classes in the median
    batch of 64."""
    sizes = Dirichlet(1000.0, "rotta")._sizes([200] * 10, 10, KeyedGenerator(0, "a"))
    assert (sizes - 20).abs().max() <= 4, "every slot holds about 20 of each class"
    counts = {
        rule: sorted(
            classes_per_batch(LABELS[Dirichlet(0.01, rule).arrange(LABELS, 2000,
                                                                   KeyedGenerator(1, "a"))]))
        for rule in ("note", "rotta")
    }
    assert all(c[len(c) // 2] <= 3 for c in counts.values())
    runs = [
        float((x[1:] == x[:-1]).double().mean())
        for x in (LABELS[Dirichlet(d, "rotta").arrange(LABELS, 2000, KeyedGenerator(2, "a"))]
                  for d in (0.01, 0.1, 1.0))
    ]
    assert runs[0] > runs[1] > runs[2] > 0.5


def test_note_rule_balances_the_slots():
    """Rule "note" fills each of the 10 slots with at least 10 images; a slot that is full gets
    nothing more of later classes."""
    order = Dirichlet(0.1, tries=1000)
    for attempt in range(5):
        sizes = order._sizes([200] * 10, 10, KeyedGenerator(7, "a").at(attempt))
        filled = sizes.cumsum(0)
        assert sizes.sum() == 2000 and (sizes[1:][filled[:-1] >= 200] == 0).all()


def test_infeasible_least_gives_up_instead_of_looping():
    few = torch.arange(10).repeat(3)
    assert Dirichlet(0.001, least=10,
                     tries=5).arrange(few, 30, KeyedGenerator(0,
                                                    "a")).sort().values.tolist() == list(range(30))


def test_dirichlet_draws_follow_their_law():
    """Mean 1/k and variance (1/k)(1 - 1/k) / (k delta + 1), at concentrations where a plain gamma
    draw underflows too."""
    for delta in (0.01, 0.5, 20.0):
        q = KeyedGenerator(0, f"law {delta}").dirichlet(delta, 4000, 5)
        torch.testing.assert_close(q.sum(1), torch.ones(4000, dtype=torch.float64))
        variance = 0.2 * 0.8 / (5 * delta + 1)
        assert (q.mean(0) - 0.2).abs().max() < 5 * math.sqrt(variance / 4000)
        assert abs(float(q.var(0).mean()) / variance - 1) < 0.1


def test_label_shift_peaks():
    """r = 1 is balanced; r = 500 000 is one class per segment; in between the share of the peak is
    r / (r + C - 1)."""
    sharp = LABELS[LabelShift(500_000.0).arrange(LABELS, 2000, KeyedGenerator(0, "a"))]
    assert sharp.unique_consecutive().sort().values.tolist() == list(range(10)) and all(
        len(p.unique()) == 1 for p in sharp.split(200))
    flat = LABELS[LabelShift(1.0).arrange(LABELS, 20_000, KeyedGenerator(0, "a"))]
    assert (flat.bincount() / 20_000 - 0.1).abs().max() < 5 * (0.09 / 20_000) ** 0.5
    half = LABELS[LabelShift(9.0).arrange(LABELS, 20_000, KeyedGenerator(1, "a"))].split(2000)
    assert abs(sum(float(p.bincount().max()) for p in half) / 20_000 - 0.5) < 0.02
    rows = LabelShift(500_000.0).arrange(LABELS, 2000, KeyedGenerator(0, "a"))
    assert len(rows.unique()) < 1500, "drawn with replacement: about 63 % of the images come"


def test_zipf_classes():
    labels = torch.arange(20).repeat(100)
    counts = labels[ClassImbalance().arrange(labels, 2000, KeyedGenerator(
        0, "a"))].bincount(minlength=20).sort(descending=True).values
    assert counts[0] > 3 * counts[10] and counts[:2].sum() < 0.9 * 2000
    grouped = labels[ClassImbalance(grouped=True).arrange(labels, 2000, KeyedGenerator(0, "a"))]
    assert len(grouped.unique_consecutive()) == len(grouped.unique())


def test_recorded_and_shuffled_need_no_labels():
    none = torch.full((50,), -1)
    assert Recorded().arrange(none, 50, KeyedGenerator(0, "a")).tolist() == list(range(50))
    assert Shuffled().arrange(none, 50,
                              KeyedGenerator(0, "a")).sort().values.tolist() == list(range(50))


@pytest.mark.parametrize(
    ("values", "words"),
    [({"kind": "Sorted"}, "no order 'Sorted'; there are: Shuffled"),
     ({"kind": "Dirichlet", "gamma": 1}, "no knob 'gamma'; it has: delta, rule"),
     ({"kind": "Dirichlet", "delta": 0}, r"Dirichlet.delta = 0 must be a number from 0.0001"),
     ({"kind": "Shuffled", "x": 1}, r"\(none\)")])
def test_bad_orders_are_refused(values, words):
    with pytest.raises(ValueError, match=words):
        from_dict(values)


def test_an_order_of_your_own_is_found_once_it_is_defined():
    with pytest.raises(ValueError, match="no order 'Backwards'.*import the module of an order"):
        from_dict("Backwards")

    @dataclass(frozen=True)
    class Backwards(Recorded):
        """The last first."""

        def arrange(self, labels, n, generator):
            return torch.arange(n).flip(0)

    stream = Stream(shifts=("fog",), per_shift=20, batch=10, order=Backwards())
    assert Stream.from_json(stream.to_json()) == stream
    imports, text = stream_code(stream)
    assert f"from {__name__} import Backwards" in imports and "from_json" not in text

    @dataclass(frozen=True)
    class Shuffled(Recorded):
        """One that has the name of ours."""

    assert known_orders()["Shuffled"].__module__ == "tta_lab.streams.orders"
    assert Shuffled is not known_orders()["Shuffled"]
