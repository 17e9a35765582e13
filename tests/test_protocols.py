"""Protocols of the literature as streams: who comes when, in every combination that makes sense;
joining, cutting, memory."""
import dataclasses
import itertools
import resource

import pytest
import torch
from test_streams import toy

from tta_lab.data.corruptions import STANDARD_15, corrupt
from tta_lab.data.image_set import ImageSet
from tta_lab.streams import protocols
from tta_lab.streams.images import UNKNOWN_ID
from tta_lab.streams.orders import ClassImbalance, Dirichlet, LabelShift, Recorded, SortedByClass
from tta_lab.streams.protocols import (
    PROTOCOLS,
    continual,
    gradual,
    mixed_domains,
    open_set,
    recorded,
)
from tta_lab.streams.stream import Stream

THREE = ("gaussian_noise", "contrast", "none")


def ids_of(stream):
    return torch.cat([a.ids for a in stream.plan()])


@pytest.mark.parametrize("name", [n for n in PROTOCOLS if n != "natural"])
def test_every_protocol_runs_and_rebuilds(name):
    known = toy(80) if name != "recorded" else dataclasses.replace(toy(40), y=torch.full((40,), -1))
    settings = {"unknown": toy(30, seed=1)} if name == "open_set" else {}
    if name not in ("recorded", "cyclic", "long_term", "closed_set", "open_set"):
        settings["shifts"] = THREE
    if name == "cyclic":
        settings["groups"] = (("none",), ("contrast",))
    if name != "recorded":
        settings["per_shift"] = 20
    stream = PROTOCOLS[name](known, **settings)
    batches = list(itertools.islice(stream, 200))
    assert sum(map(len,
                   batches)) == (stream.n_images if len(stream) <= 200 else sum(map(len, batches)))
    assert len(batches) == min(len(stream), 200)
    for batch in batches:
        assert batch.x.shape == (len(batch), 1, 8, 8) and (batch.x >= 0).all() and (batch.x
                                                                                    <= 1).all()
        assert all(
            len(c) == len(batch) for c in (batch.ids, batch.label, batch.known, batch.domain,
                                           batch.severity, batch.segment))
    again = dataclasses.replace(stream)
    assert again.hash == stream.hash and all(
        torch.equal(a.ids, b.ids) for a, b in zip(stream.plan(), again.plan(), strict=True))
    assert "hash" in stream.to_dict() and stream.statistics()["batches"] == len(stream)


@pytest.mark.parametrize(
    "order",
    [None, SortedByClass(), Dirichlet(0.1, least=0),
     Dirichlet(0.1, "rotta")], ids=repr)
@pytest.mark.parametrize("layout", [{}, {"mixed": True}, {"straddle": True}])
@pytest.mark.parametrize("mode", [None, "batch", "shuffled", "burst"])
def test_every_image_comes_exactly_once_in_any_combination(order, layout, mode):
    settings = layout | ({} if order is None else {"order": order})
    if mode is not None:
        settings = (settings
                    | {"unknown": toy(200, seed=1), "unknown_mode": mode, "unknown_ratio": 0.3})
    base = Stream(toy(120), THREE, per_shift=25, batch=8, rounds=2, **settings)
    for seed in (0, 1):
        stream = dataclasses.replace(base, seed=seed)
        arrivals = list(stream.plan())
        assert len(arrivals) == len(stream) and sum(map(len, arrivals)) == stream.n_images
        for round_ in (0, 1):
            parts = [a for a in arrivals if a.round == round_]
            ids = torch.cat([a.ids for a in parts])
            segment = torch.cat([a.segment for a in parts])
            known = ids < UNKNOWN_ID
            for i in range(3):
                hand = stream.segment_ids[round_][i]
                assert torch.equal(ids[segment == i].sort().values, hand.sort().values)
                assert int(((segment == i) & known).sum()) == 25
            assert len(ids[known].unique()) == 75
        if mode in ("shuffled", "burst"):
            assert {len(a) for a in arrivals[:-1]} <= {8, *(len(a) for a in arrivals)} and max(
                map(len, arrivals)) == 8
    if mode == "batch":
        for a in arrivals:
            n = int((a.ids < UNKNOWN_ID).sum())
            assert abs(int((a.ids >= UNKNOWN_ID).sum()) - 0.3 * n) <= 0.5


def test_batch_size_does_not_change_the_order():
    for settings in ({}, {"mixed": True}, {"order": Dirichlet(0.1, least=0)},
                     {"order": LabelShift(50.0)}, {"order": ClassImbalance()}):
        one, two = (Stream(toy(90), THREE, per_shift=30, batch=b, **settings) for b in (7, 30))
        assert torch.equal(ids_of(one), ids_of(two))


def test_images_are_what_the_plan_says_in_a_mixed_open_correlated_stream():
    known, unknown = toy(90), toy(60, seed=1)
    stream = Stream(known, THREE, 3, per_shift=30, batch=16, mixed=True,
                    order=Dirichlet(0.1, least=0), unknown=unknown, unknown_mode="shuffled",
                    unknown_ratio=0.5, rounds=2, seed=5)
    assert any(len(b.domain.unique()) == 3 for b in stream)
    for batch in stream:
        for k in range(len(batch)):
            i = int(batch.ids[k])
            clean = known.images([i]) if i < UNKNOWN_ID else unknown.images([i - UNKNOWN_ID])
            expected = corrupt(clean, THREE[int(batch.segment[k])], 3, batch.ids[k:k + 1], seed=5)
            assert torch.equal(batch.x[k:k + 1], expected)
            assert int(batch.label[k]) == (int(known.y[i]) if i < UNKNOWN_ID else 4) and bool(
                batch.known[k]) == (i < UNKNOWN_ID)


def test_gradual_has_135_or_131_segments():
    stream = gradual(toy(), per_shift=2)
    assert len(stream.shifts) == 135 and len(gradual(
        toy(), form="cotta", per_shift=2).shifts) == 131 and stream.domains == STANDARD_15
    assert stream.shifts[:9] == tuple(f"gaussian_noise:{s}" for s in (1, 2, 3, 4, 5, 4, 3, 2, 1))
    assert gradual(toy(), form="cotta",
                   per_shift=2).shifts[:5] == tuple(f"gaussian_noise:{s}" for s in (5, 4, 3, 2, 1))
    severity = [float(a.severity[0]) for a in itertools.islice(stream, 10)]
    assert severity == [1, 2, 3, 4, 5, 4, 3, 2, 1, 1] and [
        b.new_domain for b in itertools.islice(stream, 10)
    ] == [True] + [False] * 8 + [True]
    with pytest.raises(ValueError, match="'rmt' or 'cotta'"):
        gradual(toy(), form="x")


def test_same_order_and_whole_sets():
    stream = continual(toy(40), THREE, per_shift=None, batch=10, same_order=True)
    by_shift = ids_of(stream).split(40)
    assert len(by_shift) == 3 and all(torch.equal(by_shift[0], part)
                                      for part in by_shift) and by_shift[0].tolist() != list(
                                          range(40))
    free = ids_of(dataclasses.replace(stream, same_order=False)).split(40)
    assert not torch.equal(free[0], free[1]) and torch.equal(free[0].sort().values,
                                                             free[1].sort().values)


def test_straddling_batches_cross_borders_and_only_the_last_is_short():
    stream = Stream(toy(90), THREE, per_shift=25, batch=10, straddle=True)
    assert [len(b) for b in stream] == [10] * 7 + [5]
    assert [len(b.domain.unique()) for b in stream] == [1, 1, 2, 1, 1, 1, 1, 1]
    assert [len(b) for b in dataclasses.replace(stream, straddle=False)] == [10, 10, 5] * 3


def test_burst_is_one_stretch_and_shuffled_is_not():
    burst, loose = (open_set(toy(90), toy(60, seed=1), 0.5, shifts=("none",), per_shift=60,
                             batch=10, unknown_mode=mode, seed=2) for mode in ("burst", "shuffled"))
    changes = [
        int((flags[1:] != flags[:-1]).sum())
        for flags in (ids_of(s) >= UNKNOWN_ID for s in (burst, loose))
    ]
    assert changes[0] in (1, 2) and changes[1] > 20
    assert burst.statistics()["unknown"] == loose.statistics()["unknown"] == pytest.approx(1 / 3)


def test_label_shift_draws_from_the_whole_set():
    stream = protocols.label_shift(toy(60), ("none",), ratio=1e6, per_shift=400)
    assert stream.n_images == 400 and len(stream) == 7 and stream.reset == "domain"
    labels = torch.cat([b.label for b in stream])
    assert len(labels.unique_consecutive()) == 4 and stream.statistics()["run_length"] == 100


class TwoPlaces(ImageSet):
    """A set with domains of its own: rows of "day" and "night", the latter darker."""

    domains = ("day", "night")

    def check_domain(self, domain="none", severity=5.0):
        assert domain in ("none", *self.domains)

    def rows(self, domain="none"):
        return {"day": torch.arange(0, 24), "night": torch.arange(24, 60)}.get(domain)

    def images(self, index=slice(None), device="cpu", domain="none", severity=5.0):
        return self.x[index].to(device).float() / (510 if domain == "night" else 255)


def test_domains_that_a_set_holds_itself():
    known = TwoPlaces(**vars(toy(60)))
    stream = protocols.natural(known, batch=10)
    assert stream.domains == ("day", "night") and stream.counts == (24, 36) and [
        len(b) for b in stream
    ] == [10, 10, 4, 10, 10, 10, 6]
    ids = ids_of(stream)
    assert ids[:24].sort().values.tolist() == list(
        range(24)) and ids[24:].sort().values.tolist() == list(range(24, 60))
    assert max(float(b.x.max()) for b in list(stream)[3:]) <= 0.5
    # own files and a made corruption in one stream
    both = Stream(known, ("night", "contrast", "day"), per_shift=20, batch=20)
    assert [int(b.domain[0]) for b in both] == [0, 1, 2] and float(next(iter(both)).x.max()) <= 0.5
    with pytest.raises(ValueError, match="per_shift is 30, but toy in the domain day has 24"):
        Stream(known, ("day",), per_shift=30)
    with pytest.raises(ValueError, match="holds no domains of its own"):
        protocols.natural(toy())


class Foggy(ImageSet):
    """A set that holds fog itself: black pictures."""

    domains = ("fog",)

    def check_domain(self, domain="none", severity=5.0):
        assert domain in ("none", "fog")

    def rows(self, domain="none"):
        return None

    def images(self, index=slice(None), device="cpu", domain="none", severity=5.0):
        return self.x[index].to(device).float() / 255 * (domain != "fog")


def test_a_composition_is_made_even_if_the_set_holds_its_first_part():
    """Until now "fog:3+contrast" of a set that holds fog showed fog alone."""
    with pytest.raises(ValueError, match="toy holds 'day' itself, but a composition is made here"):
        Stream(TwoPlaces(**vars(toy(60))), ("day:3+contrast",), per_shift=20)
    fog = Foggy(**vars(toy(60)))
    assert Stream(fog, ("fog:3",), per_shift=20, batch=20).counts == (20,)
    made = next(iter(Stream(fog, ("fog:3+contrast",), per_shift=20, batch=20)))
    held = next(iter(Stream(fog, (" fog :3",), per_shift=20, batch=20)))
    plain = fog.images(made.ids)
    assert torch.equal(made.x, corrupt(plain, "fog:3+contrast", 5, made.ids, 0)) and float(
        held.x.max()) == 0
    with pytest.raises(ValueError, match="holds no domain 'fgo', only fog, and there is no "
                                         "corruption 'fgo' either.*did you mean 'fog'"):
        Stream(fog, ("fgo",), per_shift=20)
    with pytest.raises(ValueError, match="the severity of 'fog' must be a number from 0 to 5, got "
                                         "'x' in 'fog:x'"):
        Stream(fog, ("fog:x",), per_shift=20)


def test_recorded_order_with_some_labels():
    frames = dataclasses.replace(toy(50),
                                 y=torch.where(torch.arange(50) % 2 == 0,
                                               torch.arange(50) % 4, -1))
    stream = recorded(frames, batch=16)
    assert ids_of(stream).tolist() == list(range(50)) and stream.statistics()["unlabelled"] == 0.5
    assert torch.equal(torch.cat([b.label for b in stream]), frames.y)
    weather = Stream(frames, ("none", "contrast"), per_shift=20, order=Recorded())
    assert ids_of(weather).tolist() == list(
        range(40)), "the next shift goes on with the next frames"
    with pytest.raises(ValueError, match="arranges images by their class, but 25 of the 50 images"):
        Stream(frames, per_shift=10, order=SortedByClass())


def test_joined_streams():
    base = Stream(toy(), ("contrast", "none"), per_shift=20, batch=10)
    other = dataclasses.replace(base, shifts=("none", "brightness"), seed=4)
    both = base + other + base
    assert len(both) == 12 and both.n_images == 120 and both.domains == ("contrast", "none",
                                                                         "brightness") and len(
                                                                             both.parts) == 3
    parts = list(base) + list(other) + list(base)
    for a, b in zip(both, parts, strict=True):
        assert torch.equal(a.x, b.x) and torch.equal(a.ids, b.ids)
    assert [int(b.domain[0])
            for b in both][::2] == [0, 1, 1, 2, 0, 1] and [int(b.segment[0]) for b in both
                                                           ][::2] == [0, 1, 2, 3, 4, 5]
    assert [b.new_domain for b in both][::2] == [True, True, False, True, True,
                                                 True], "clean after clean is no border"
    assert both.statistics()["images"] == 120 and both.picture()["label"].shape == (120,)
    for wrong, words in ((Stream(toy(seed=9), per_shift=20), "different known images"),
                         (dataclasses.replace(base, reset="batch"), "different reset")):
        with pytest.raises(ValueError, match=words):
            base + wrong


def test_cut_streams_make_no_image_before_their_start(monkeypatch):
    stream = Stream(toy(), THREE, per_shift=20, batch=8, rounds=2)
    whole = list(stream)
    made = []
    monkeypatch.setattr("tta_lab.streams.images.corrupt",
                        lambda x, *rest: made.append(len(x)) or corrupt(x, *rest))
    part = stream.cut(4, 7)
    for a, b in zip(part, whole[4:7], strict=True):
        assert torch.equal(a.x, b.x) and torch.equal(a.ids, b.ids)
    assert len(part) == 3 and part.n_images == sum(map(len, whole[4:7])) and sum(made) <= 40
    assert [len(b) for b in stream.cut(2).cut(1, 3)] == [len(b) for b in whole[3:5]]
    assert part.domains == stream.domains and part.hash != stream.hash
    for start, stop in ((3, 3), (-1, 2), (0, 99)):
        with pytest.raises(ValueError, match="has 18 batches"):
            stream.cut(start, stop)


def test_joined_and_cut_streams_rebuild_from_json():
    base = Stream("digits", ("contrast", "none"), per_shift=20, batch=10)
    both = (
        (base + dataclasses.replace(base, order=Dirichlet(0.5, least=0), mixed=True)).cut(1, 4) +
        base)
    again = Stream.from_json(both.to_json())
    assert again.hash == both.hash and type(again) is type(both)
    assert all(torch.equal(a.x, b.x) for a, b in zip(both, again, strict=True))


def classes_per_batch(stream):
    return stream.statistics()["classes_per_batch"]


@pytest.mark.parametrize(
    ("make", "wanted", "settings"),
    [(protocols.correlated, 3, dict(per_shift=300, batch=20)),
     (protocols.correlated, 3, dict(per_shift=600)),
     (protocols.correlated, 3, dict(per_shift=2500)),
     (protocols.correlated, 1.5, dict(per_shift=2000)),
     (protocols.correlated, 9.5, dict(per_shift=600)),
     (protocols.correlated, 4.5, dict(per_shift=600, rule="rotta")),
     (protocols.correlated, 3,
      dict(per_shift=300, batch=20, unknown="digits", unknown_mode="shuffled")),
     (protocols.mixed_correlated, 5, dict(per_shift=200)),
     (protocols.recurring, 5, dict(per_shift=300, visits=2))])
def test_classes_in_a_batch_are_as_wanted_at_every_length(make, wanted, settings):
    """The mean number of distinct classes in a batch, to within 3 % on the whole stream; the same
    delta means 9 or 1.3 of them."""
    stream = make(shifts=("none", "fog", "snow"), classes_per_batch=wanted, **settings)
    assert classes_per_batch(stream) == pytest.approx(wanted, rel=0.03)
    if wanted == 5:
        assert make(shifts=("none", "fog", "snow"), classes_per_batch=wanted,
                    **settings).order == stream.order, "found anew, the same"
    again = Stream.from_json(stream.to_json())
    assert again.hash == stream.hash and again.order == stream.order


def test_one_delta_means_other_clumping_at_other_lengths():
    found = {
        n: classes_per_batch(protocols.correlated(shifts=("none", "fog"), delta=0.1, per_shift=n))
        for n in (100, 600, 4000)
    }
    assert found[100] > 8.5 and 3.5 < found[600] < 5 and found[4000] < 2.5


@pytest.mark.parametrize(
    ("call", "words"),
    [(lambda: protocols.correlated(shifts=("fog",), per_shift=100, classes_per_batch=3),
      "batches of 64 from 100 images of 10 classes cannot hold 3.*smaller batch or more"),
     (lambda: protocols.correlated(shifts=("fog",), per_shift=300, batch=8, classes_per_batch=9),
      "batches of 8 .*cannot hold 9.*larger batch"),
     (lambda: protocols.correlated(classes_per_batch=11), "classes_per_batch must be a number from "
      "1 to 10"),
     (lambda: protocols.correlated(classes_per_batch="3"), "classes_per_batch must be a number"),
     (lambda: protocols.correlated(delta=0.5, classes_per_batch=3), "leave delta out"),
     (lambda: protocols.correlated(order=SortedByClass(), classes_per_batch=3), "leave one out"),
     (lambda: protocols.with_classes_per_batch(Stream(toy(), per_shift=20), 3), "needs a stream in "
      "Dirichlet order"),
     (lambda: protocols.with_classes_per_batch(3, 3), "needs a stream in Dirichlet order"),
     (lambda: protocols.correlated(delta=-1), "delta must be"),
     (lambda: protocols.correlated(delta="x"), "delta must be"),
     (lambda: protocols.correlated(delta=0, rule="x"), "rule must be one of"),
     (lambda: protocols.correlated(delta=1e9), "Dirichlet.delta"),
     (lambda: protocols.mixed_correlated(delta=None), "delta must be"),
     (lambda: protocols.recurring(visits=0), "visits must be"),
     (lambda: protocols.gradual(shifts="fog"), r"shifts=\['fog'\]"),
     (lambda: protocols.gradual(shifts=("fog:3",)), "sets the severities itself"),
     (lambda: protocols.gradual(shifts=(), form="cotta"), "shifts is empty"),
     (lambda: protocols.alternating(shifts="fog"), r"shifts=\['fog'\]"),
     (lambda: protocols.cyclic(groups="noise"), r"groups=\['noise'\]"),
     (lambda: protocols.cyclic(groups=("nose",)), "did you mean 'noise'"),
     (lambda: protocols.cyclic(repeats=0), "repeats must be"),
     (lambda: protocols.cyclic(cycles="2"), "cycles must be"),
     (lambda: protocols.class_imbalance(grouped="yes"), "grouped must be True or False"),
     (lambda: protocols.label_shift(ratio="x"), "LabelShift.ratio"),
     (lambda: protocols.long_term(rounds=2.5), "Stream.rounds must be"),
     (lambda: protocols.orders_of_shifts(count=0), "count must be"),
     (lambda: protocols.orders_of_shifts("fog"), r"shifts=\['fog'\]"),
     (lambda: protocols.natural("fashion_mnst"), "no embedded image set"),
     (lambda: protocols.open_set(unknown=None), "there are no unknown images"),
     (lambda: protocols.recorded(3), "must be an image set")])
def test_protocols_check_their_arguments(call, words):
    with pytest.raises(ValueError, match=words):
        call()


@pytest.mark.parametrize(("settings", "words"),
                         [(dict(mixed=True, reset="domain"), "needs borders between domains"),
                          (dict(straddle=True, reset="domain"), "needs borders"),
                          (dict(mixed=True, straddle=True), "no border to straddle"),
                          (dict(order=Recorded(), mixed=True), "keeps the order of the files"),
                          (dict(same_order=True), "take per_shift=None"),
                          (dict(unknown_mode="sometimes"), "one of batch, shuffled, burst"),
                          (dict(order="Sorted"), "no order 'Sorted'"),
                          (dict(mixed=1), "mixed must be True or False"),
                          (dict(shifts=("fog:7",)), "severity")])
def test_combinations_without_sense_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        Stream(**{"known": toy(), "per_shift": 20, **settings})


def test_a_million_images_in_constant_memory():
    """Ten times the stream takes no more memory than its tenth: peak resident memory grows by less
    than 30 MB."""
    known = toy(20_000, side=4)

    def through(rounds):
        n = sum(
            len(b) for b in Stream(known, ("none",) *
                                   5, per_shift=None, batch=2000, rounds=rounds, redraw=True))
        return n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024

    short, before = through(1)
    long, after = through(10)
    assert (short, long) == (100_000, 1_000_000) and after - before < 30


def test_statistics_and_picture():
    stream = mixed_domains(toy(90), THREE, per_shift=30, batch=30, unknown=toy(30, seed=1),
                           unknown_ratio=0.5)
    numbers, picture = stream.statistics(), stream.picture()
    assert numbers["images"] == 135 and numbers["domains_per_batch"] == 3 and numbers[
        "unknown"] == pytest.approx(1 / 3)
    assert picture["label"].shape == (135,) and set(
        picture["label"].tolist()) == {0, 1, 2, 3, 4} and picture["domains"] == list(THREE)
    sorted_ = Stream(toy(80), ("none",), per_shift=80, batch=20, order=SortedByClass()).statistics()
    assert sorted_["classes_per_batch"] == 1 and sorted_["run_length"] == 20
