"""Streams: sizes by hand, who is shown when, repetition and rebuilding."""
import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch

from tta_lab.data import corruptions as streams_corruptions
from tta_lab.data.corruptions import STANDARD_SIX, corrupt
from tta_lab.data.image_set import ImageSet
from tta_lab.data.load import load
from tta_lab.data.shift import Shift
from tta_lab.streams import orders
from tta_lab.streams import stream as streams
from tta_lab.streams.base import AbstractStream
from tta_lab.streams.cached import CachedStream
from tta_lab.streams.images import UNKNOWN_ID
from tta_lab.streams.orders import Dirichlet, Shuffled
from tta_lab.streams.protocols import closed_set, long_term, open_set
from tta_lab.streams.sampling import balanced_permutation, sample_without_replacement, shuffled
from tta_lab.streams.stream import Stream


def toy(n=60, classes=4, side=8, seed=0, name="toy"):
    """Random images, as many of each class as possible."""
    x = torch.randint(0, 256, (n, 1, side, side), dtype=torch.uint8,
                      generator=torch.Generator().manual_seed(seed))
    return ImageSet(name, x, torch.arange(n) % classes, tuple(f"class {k}" for k in range(classes)))


def ids_by_segment(stream):
    """(round, domain index) -> ids in order of arrival."""
    found = {}
    for batch in stream:
        found.setdefault((batch.round, int(batch.segment[0])), []).append(batch.ids)
    return {key: torch.cat(parts) for key, parts in found.items()}


def test_sizes_by_hand():
    """25 known in batches of 10: 10, 10, 5; rho 0.5 gives 5, 5, 3 (2.5 is rounded up) unknown: 38
    images a shift."""
    stream = Stream(toy(), ("contrast", "none"), per_shift=25, batch=10, rounds=3,
                    unknown=toy(seed=1), unknown_ratio=0.5)
    assert stream.sizes == [(10, 5), (10, 5), (5, 3)]
    assert len(stream) == 3 * 2 * 3 and stream.n_images == 3 * 2 * 38
    batches = list(stream)
    assert len(batches) == len(stream) and sum(map(len, batches)) == stream.n_images
    assert [len(b) for b in batches[:3]] == [15, 15, 8]
    assert stream.domains == ("contrast", "none")
    assert [(b.round, b.domain.unique().tolist(), b.severity.unique().tolist(), b.new_domain)
            for b in batches[:7]] == [(0, [0], [5.0], True), (0, [0], [5.0], False),
                                      (0, [0], [5.0], False), (0, [1], [0.0], True),
                                      (0, [1], [0.0], False), (0, [1], [0.0], False),
                                      (1, [0], [5.0], True)]
    assert sum(b.new_domain for b in batches) == 6


def test_batches_hold_what_they_say():
    known, unknown = toy(), toy(seed=1, classes=7)
    stream = Stream(known, ("gaussian_noise", "none", "pixelate"), 3, per_shift=12, batch=5,
                    unknown=unknown, unknown_ratio=1, seed=9)
    for batch in stream:
        n = len(batch) // 2
        assert batch.known.tolist() == [True] * n + [False] * n                   # known first
        assert batch.ids[:n].max() < len(known) and batch.ids[n:].min() >= UNKNOWN_ID
        assert torch.equal(batch.label[:n], known.y[batch.ids[:n]]) and (batch.label[n:] == 4).all()
        clean = torch.cat([known.images(batch.ids[:n]), unknown.images(batch.ids[n:] - UNKNOWN_ID)])
        domain = stream.domains[int(batch.domain[0])]
        assert torch.equal(batch.x, corrupt(clean, domain, 3, batch.ids, seed=9))
        assert torch.equal(stream.images(batch.ids.flip(0), domain), batch.x.flip(0))
        assert batch.x.dtype == torch.float32 and batch.known.dtype == torch.bool
        assert batch.ids.dtype == batch.label.dtype == torch.int64
    with pytest.raises(dataclasses.FrozenInstanceError):
        batch.domain = "other"


def test_defaults():
    stream = closed_set()
    assert stream.shifts == STANDARD_SIX == ("gaussian_noise", "defocus_blur", "contrast",
                                             "brightness", "pixelate", "jpeg_compression")
    assert (stream.severity, stream.per_shift, stream.batch, stream.rounds,
            stream.reset) == (5, 300, 100, 1, "never")
    assert len(stream) == 18 and stream.n_images == 1800
    assert open_set().sizes == [(100, 100)] * 3 and open_set().n_images == 3600
    assert long_term().rounds == 50 and long_term(unknown="digits", rounds=2).ratio == 1
    first = next(iter(open_set()))
    assert first.x.shape == (200, 1, 28, 28) and (first.label[100:] == 10).all()


def test_shifts_share_no_image_and_are_balanced():
    stream = Stream(per_shift=300, seed=5)
    ids = torch.cat(stream.segment_ids[0])
    assert len(ids.unique()) == 1800
    for hand in stream.segment_ids[0]:
        assert load("fashion_mnist").y[hand].bincount().tolist() == [30] * 10
    odd = Stream("fashion_mnist_8", per_shift=301)
    for hand in odd.segment_ids[0]:
        counts = odd.known_set.y[hand].bincount()
        assert counts.max() - counts.min() <= 1 and counts.sum() == 301


def test_a_deck_is_balanced_as_long_as_classes_last():
    labels = torch.tensor([0] * 3 + [1] * 3 + [2] * 9)
    order = balanced_permutation(labels, 0, "x", 0)
    assert order.sort().values.tolist() == list(range(15))
    for k in range(3):
        assert labels[order][3 * k:3 * k + 3].sort().values.tolist() == [0, 1, 2]
    assert (labels[order][9:] == 2).all()
    late = balanced_permutation(labels, 0, "x", 0, last=torch.tensor([0, 1, 8]))
    assert set(late[-3:].tolist()) == {0, 1, 8
                                       } and labels[late][:3].sort().values.tolist() == [0, 1, 2]


def test_sampling_goes_on_with_a_new_permutation():
    """10 images, samples of 4: two from the first permutation, the third takes its last 2 and 2
    others of the second."""
    labels = torch.arange(10) % 2
    samples = list(sample_without_replacement(labels, [4] * 5, 0, "x"))
    assert sorted(torch.cat(samples[:2] + [samples[2][:2]]).tolist()) == list(range(10))
    assert all(len(set(sample.tolist())) == 4 for sample in samples)
    assert sorted(torch.cat(samples).tolist()) == sorted(list(range(10)) * 2)
    for sample in samples:
        assert labels[sample].sum() == 2
    # more than there are: everything twice, and five a third time
    large = next(sample_without_replacement(labels, [25], 0, "x"))
    assert sorted(large.bincount().tolist()) == [2] * 5 + [3] * 5


def test_wrap_around_repeats_no_image_within_a_shift():
    stream = Stream(toy(60), ["contrast"] * 5, per_shift=50, batch=50)
    for ids in ids_by_segment(stream).values():
        assert len(ids.unique()) == 50
    counts = torch.cat(stream.segment_ids[0]).bincount(minlength=60)
    assert counts.min() >= 4 and counts.max() <= 5           # 250 = 4 60 + 10


def test_rounds_repeat_images_in_another_order():
    stream = Stream(toy(), ("contrast", "gaussian_noise"), per_shift=20, batch=6, rounds=3,
                    unknown=toy(seed=1), unknown_ratio=0.5)
    segments = ids_by_segment(stream)
    for domain in (0, 1):
        first, second, third = (segments[r, domain] for r in range(3))
        assert torch.equal(first.sort().values,
                           second.sort().values) and torch.equal(second.sort().values,
                                                                 third.sort().values)
        for keep in (lambda ids: ids[ids < UNKNOWN_ID], lambda ids: ids[ids >= UNKNOWN_ID]):
            assert not torch.equal(keep(first), keep(second)) and not torch.equal(
                keep(second), keep(third))
    seen = {}
    # the same image looks the same in every round, noise included
    for batch in stream:
        for i, x in zip(batch.ids.tolist(), batch.x, strict=True):
            assert torch.equal(seen.setdefault((int(batch.domain[0]), i), x), x)


def test_redraw_shows_new_images_as_long_as_the_set_lasts():
    stream = Stream(toy(80), ("contrast", "brightness"), per_shift=20, rounds=3, redraw=True)
    segments = ids_by_segment(stream)
    first_two = torch.cat([segments[r, d] for r in (0, 1) for d in (0, 1)])
    # 2 rounds x 2 shifts x 20: the whole set once
    assert len(first_two.unique()) == 80
    assert not torch.equal(segments[2, 0].sort().values, segments[0, 0].sort().values)
    once = dataclasses.replace(stream, rounds=1, redraw=False)
    assert all(
        torch.equal(a, b) for a, b in zip(once.segment_ids[0], stream.segment_ids[0], strict=True))


def test_each_image_is_corrupted_once_and_the_bound_changes_nothing(monkeypatch):
    calls = []

    def counted(x, *rest):
        calls.append(len(x))
        return corrupt(x, *rest)

    monkeypatch.setattr("tta_lab.streams.images.corrupt", counted)
    stream = Stream(toy(), ("contrast", "gaussian_noise"), per_shift=20, batch=6, rounds=4,
                    unknown=toy(seed=1), unknown_ratio=0.5)
    shift = sum(map(sum, stream.sizes))
    kept = [b.x for b in stream]
    assert sum(calls) == 2 * shift
    # room for one of the two shifts, 64 bytes an image
    monkeypatch.setattr(streams, "CACHE_BYTES", shift * 64)
    calls.clear()
    half = [b.x for b in stream]
    assert sum(calls) == shift + 4 * shift
    monkeypatch.setattr(streams, "CACHE_BYTES", 0)
    none = [b.x for b in stream]
    assert all(
        torch.equal(a, b) and torch.equal(a, c) for a, b, c in zip(kept, half, none, strict=True))


def test_same_seed_same_stream_and_seeds_differ():
    one, two, other = (Stream(toy(), ("gaussian_noise",), per_shift=30, batch=7, seed=s)
                       for s in (1, 1, 2))
    for a, b in zip(one, two, strict=True):
        assert torch.equal(a.x, b.x) and torch.equal(a.ids, b.ids)
    a, b = (torch.cat([x.ids for x in s]) for s in (one, other))
    assert not torch.equal(a, b) and not torch.equal(a.sort().values, b.sort().values)


def test_settings_of_the_runner_or_the_batch_do_not_change_the_images():
    """Which images a shift shows and how they look do not depend on batch size, rounds or the
    unknowns."""
    base = Stream(toy(), ("gaussian_noise", "contrast"), per_shift=20, batch=10)
    for change in (dict(batch=3), dict(rounds=2), dict(unknown=toy(seed=1)), dict(reset="batch")):
        other = dataclasses.replace(base, **change)
        for a, b in zip(base.segment_ids[0], other.segment_ids[0], strict=True):
            assert torch.equal(a, b[b < UNKNOWN_ID])
    order = torch.cat([b.ids for b in base])
    assert torch.equal(order, torch.cat([b.ids for b in dataclasses.replace(base, batch=3)]))


def test_global_generators_are_left_alone():
    before = torch.get_rng_state()
    list(Stream(toy(), ("gaussian_noise",), per_shift=20))
    assert torch.equal(torch.get_rng_state(), before)


def test_permutations_are_permutations():
    assert shuffled(100, 0, "a").sort().values.tolist() == list(range(100))
    assert not torch.equal(shuffled(100, 0, "a"), shuffled(100, 0, "b"))
    assert not torch.equal(shuffled(100, 0, "a", 1), shuffled(100, 0, "a", 2))
    first = torch.stack([shuffled(4, s, "a") for s in range(1000)])
    # every element is equally often at every place
    for place in range(4):
        assert (first[:, place].bincount(minlength=4) -
                250).abs().max() < 4 * (1000 * 0.25 * 0.75)**0.5


def test_ratio_zero_and_above_one():
    assert Stream(toy(), per_shift=10, unknown=toy(seed=1), unknown_ratio=0).sizes == [(10, 0)]
    many = Stream(toy(), ("none",), per_shift=60, batch=50, unknown=toy(20, seed=1),
                  unknown_ratio=2)
    # 120 unknowns from 20 images: each six times
    assert many.sizes == [(50, 100), (10, 20)]
    ids = torch.cat([b.ids[~b.known] for b in many]) - UNKNOWN_ID
    assert ids.bincount().tolist() == [6] * 20


def test_json_rebuilds_exactly():
    stream = open_set("fashion_mnist_8", "fashion_mnist_held_out", 0.25,
                      shifts=["contrast", "gaussian_noise"], severity=3.5, per_shift=20, batch=8,
                      rounds=2, reset="domain", redraw=True, seed=12)
    again = Stream.from_json(stream.to_json())
    assert again == stream and again.hash == stream.hash and hash(again) == hash(stream)
    assert eval(repr(stream), {**vars(orders), "Stream": Stream}) == stream
    for a, b in zip(stream, again, strict=True):
        assert torch.equal(a.x, b.x) and torch.equal(a.ids, b.ids) and torch.equal(a.label, b.label)
    assert json.loads(stream.to_json()) == stream.to_dict()
    assert stream.to_dict()["unknown"] == "fashion_mnist_held_out"


def test_json_of_subsets_and_of_own_sets():
    subset = load("digits").only([3, 5])
    stream = Stream(subset, per_shift=20)
    again = Stream.from_json(stream.to_json())
    assert again.known == "digits[3,5]" and again.hash == stream.hash
    for own in (toy(), load("digits").take(slice(0, 100)), load("digits").only([3, 5],
                                                                               relabel=False)):
        with pytest.raises(ValueError,
                           match="the known set .* is not one that tta_lab.load finds"):
            Stream(own, per_shift=20).to_json()
    with pytest.raises(ValueError, match="the unknown set 'toy'"):
        Stream("digits", per_shift=20, unknown=toy(side=28)).to_json()
    assert Stream(toy(), per_shift=20).to_dict()["known"] == "toy"


def test_hash_follows_the_content():
    base = Stream(toy(), per_shift=20)
    assert base.hash == Stream(toy(), per_shift=20).hash and len(base.hash) == 12
    changes = [
        dict(shifts=("contrast",)),
        dict(severity=4),
        dict(per_shift=19),
        dict(batch=3),
        dict(rounds=2),
        dict(seed=1),
        dict(redraw=True),
        dict(reset="batch"),
        dict(known=toy(seed=1)),
        dict(unknown=toy(seed=2)),
        dict(unknown=toy(seed=2), unknown_ratio=0.5)
    ]
    hashes = {dataclasses.replace(base, **change).hash for change in changes} | {base.hash}
    assert len(hashes) == len(changes) + 1
    assert Stream(toy(), per_shift=20, unknown=toy(seed=2),
                  unknown_ratio=1).hash == Stream(toy(), per_shift=20, unknown=toy(seed=2)).hash


def test_damaged_json_is_refused():
    text = Stream("digits", per_shift=20).to_json()
    for wrong, words in ((text[:-5], "not the JSON of a stream"), ("[]", "this one has list"),
                         ("{}", "an entry .kind."),
                         (text.replace('"seed": 0', '"seed": 1'), "has hash .* settings were "
                          "edited"), (text.replace('"seed"', '"sead"'), "sead"),
                         (text.replace('"digits"',
                                       '"letters"'), "no embedded image set 'letters'")):
        with pytest.raises(ValueError, match=words):
            Stream.from_json(wrong)


@pytest.mark.parametrize("settings, words", [
    (dict(known="mnist"), "no embedded image set 'mnist'; there are: fashion_mnist"),
    (dict(known=3), "Stream.known must be an image set or a text that tta_lab.load"),
    (dict(shifts="contrast"), r"write shifts=\['contrast'\]"),
    (dict(shifts=()), "shifts is empty; name at least one of gaussian_noise"),
    (dict(shifts=("contrast", "fogg")), "no corruption 'fogg'"),
    (dict(severity=6), "severity must be a number from 0 .unchanged. to 5"),
    (dict(per_shift=61), "toy has 60 images.*choose per_shift <= 60"),
    (dict(per_shift=0), "Stream.per_shift must be a whole number of at least 1"),
    (dict(batch=2.5), "Stream.batch must be a whole number"),
    (dict(rounds=True), "Stream.rounds must be"),
    (dict(seed="a"), "Stream.seed must be a whole number"),
    (dict(reset="always"), "one of never, domain, batch, got 'always'"),
    (dict(redraw=1), "redraw must be True or False"),
    (dict(unknown_ratio=0.5), "there are no unknown images; give unknown='digits'"),
    (dict(unknown=toy(seed=1), unknown_ratio=-1), "unknown_ratio must be a number of at least 0"),
    (dict(unknown=toy(seed=1), unknown_ratio=float("nan")), "unknown_ratio must be"),
    (dict(unknown=toy()), "same set.*fashion_mnist_held_out"),
    (dict(unknown=toy(side=9, seed=1)), r"known images \(toy\) are \(1, 8, 8\), unknown ones "
                                        r"\(toy\) are \(1, 9, 9\)"),
    (dict(unknown=toy(seed=1).take(slice(0, 0))), "is empty"),
])
def test_bad_settings_are_refused_with_the_remedy(settings, words):
    with pytest.raises(ValueError, match=words):
        Stream(**{"known": toy(), "per_shift": 20, **settings})


def test_a_shift_is_the_same_however_it_is_spaced():
    plain = Stream(toy(), ("fog:3", "gaussian_noise:2+fog:1", "none"), per_shift=10)
    for spaced in (("fog :3", "gaussian_noise:2 + fog:1", " none"), ("fog: 3", " gaussian_noise : "
                                                                     "2+fog :1 ", "none "),
                   ["\tfog:3\n", "gaussian_noise:2+ fog:1", "none"]):
        other = Stream(toy(), spaced, per_shift=10)
        assert other.shifts == plain.shifts and other.domains == plain.domains == (
            "fog", "gaussian_noise+fog", "none")
        assert other.hash == plain.hash and other.to_dict() == plain.to_dict()
        assert all(torch.equal(a.x, b.x) for a, b in zip(other, plain, strict=True))
    x = toy().images(slice(0, 4))
    assert torch.equal(streams_corruptions.corrupt(x, " fog : 3 "),
                       streams_corruptions.corrupt(x, "fog:3")) and torch.equal(
                           streams_corruptions.corrupt(x, " none "), x)


@pytest.mark.parametrize("text, parts, tidy, domain, severity", [
    ("fog", [("fog", None)], "fog", "fog", 5),
    (" fog : 2.50", [("fog", 2.5)], "fog:2.50", "fog", 2.5),
    ("gaussian_noise: 2 +fog", [("gaussian_noise", 2), ("fog", None)], "gaussian_noise:2+fog",
     "gaussian_noise+fog", 5),
    ("snow:0+fog:0.5", [("snow", 0), ("fog", 0.5)], "snow:0+fog:0.5", "snow+fog", 0.5),
    (" none", [("none", None)], "none", "none", 0),
    ("day one:3", [("day one", 3)], "day one:3", "day one", 3),
    (" wet+cold ", [(" wet+cold ", None)], " wet+cold ", " wet+cold ", 5),
    ("dry+warm : 4", [("dry+warm", 4)], "dry+warm:4", "dry+warm", 4),
    ("fog:1+dry+warm", [("fog", 1), ("dry", None), ("warm", None)], "fog:1+dry+warm",
     "fog+dry+warm", 5),
])
def test_a_shift_is_parsed_and_printed(text, parts, tidy, domain, severity):
    held = (" wet+cold ", "dry+warm", "day one")
    shift = Shift.parse(text, held)
    assert shift.parts == tuple(parts) and shift.names == tuple(name for name, _ in parts)
    assert str(shift) == shift.text == tidy and shift.domain == domain
    assert shift.severity(5) == severity and shift.held == (domain in held)
    again = Shift.parse(shift.text, held)
    assert again == shift and again.text == shift.text
    assert Shift.parse(Shift(shift.parts, shift.held).text, held) == shift
    assert shift.steps(5) == (() if shift.clean else tuple((n, 5 if s is None else s)
                                                           for n, s in parts))


def test_domains_count_once_however_they_are_written():
    assert Stream(toy(), ("fog :3", "fog", "snow: 1+fog", "snow+ fog"), per_shift=5).domains == (
        "fog", "snow+fog")


def test_the_hash_of_streams_that_were_valid_stays():
    """They name cached runs: written by the version before spaces were tidied."""
    assert Stream(toy(), ("fog:3", "none", "snow:2.50"), per_shift=20,
                  batch=10).hash == "46b1ce5a6acc"
    assert Stream(toy(), ("fog",), per_shift=20, order=Dirichlet(0.1,
                                                                  least=0)).hash == "23a6421be328"


def test_json_with_spaces_in_shifts_keeps_loading():
    tidy = Stream("digits", ("fog:3", "none"), per_shift=20)
    values = tidy.to_dict()
    values["shifts"] = ["fog :3", "none"]
    values["hash"] = "df03d0580f3a"                               # as the older version wrote it
    both = {
        "kind": "joined", "parts": [values, values], "hash": streams.hash_of([values["hash"]] * 2)
    }
    cut = {
        "kind": "cut", "stream": both, "start": 0, "stop": 1,
        "hash": streams.hash_of([both["hash"], 0, 1])
    }
    for written, expected in ((values, tidy), (both, tidy + tidy), (cut, (tidy + tidy).cut(0, 1))):
        again = Stream.from_json(json.dumps(written))
        assert again.hash == expected.hash and again.shifts == expected.shifts
        with pytest.raises(ValueError, match="has hash"):
            Stream.from_json(json.dumps({**written, "hash": "0" * 12}))


@pytest.mark.parametrize("settings, words", [
    (dict(known=None), "must be an image set or a text"),
    (dict(known=Path("x")), "written as a "
     "text, 'folder:PATH'"),
    (dict(known=[1]), "goes through tta_lab.wrap"),
    (dict(unknown=3), "Stream.unknown must be an "
     "image set"),
    (dict(shifts=None), "must list the shifts in order"),
    (dict(shifts=3), "must list the shifts"),
    (dict(shifts={"fog", "snow"}), "in order"),
    (dict(shifts=("fog", 3)), "texts such as 'fog'.*not 3"),
    (dict(shifts=("fogg",)), "did you mean 'fog'"),
    (dict(shifts=("",)), "no corruption ''"),
    (dict(shifts=("fog:6",)), "got 6"),
    (dict(shifts=("fog:x",)), "must be a number from 0 to 5, "
     "got 'x'"),
    (dict(shifts=("fog:nan",)), "got nan"),
    (dict(shifts=("fog:3:2",)), "got '3:2'"),
    (dict(shifts=("fog:",)), "got ''"),
    (dict(shifts=("none:3",)), "stands alone"),
    (dict(severity="3"), "got '3'"),
    (dict(severity=None), "severity must be"),
    (dict(per_shift=10.5), "Stream.per_shift must be a whole number"),
    (dict(batch=0), "Stream.batch must be"),
    (dict(batch="10"), "Stream.batch must be"),
    (dict(rounds=None), "Stream.rounds must be"),
    (dict(seed=0.5), "Stream.seed must be"),
    (dict(seed=2**63), "Stream.seed must be"),
    (dict(order=Shuffled), "not the class itself"),
    (dict(order=3), "order must be an order such as"),
    (dict(order={"knobs": 1}), "no order None"),
    (dict(order="Shufled"), "did you mean 'Shuffled'"),
    (dict(order={"kind": "Dirichlet", "dleta": 1}), "did you mean 'delta'"),
    (dict(reset=["batch"]), "one of never"),
    (dict(unknown_mode=None), "one of batch"),
    (dict(mixed="yes"), "Stream.mixed must be True or "
     "False"),
    (dict(unknown=toy(seed=1), unknown_ratio="1"), "unknown_ratio must be"),
    (dict(unknown=toy(seed=1), unknown_ratio=True), "unknown_ratio must be"),
])
def test_more_bad_settings_are_refused_in_words(settings, words):
    with pytest.raises(ValueError, match=words):
        Stream(**{"known": toy(), "per_shift": 20, **settings})


def test_numbers_of_other_libraries_are_numbers():
    made = Stream(toy(), np.array(["fog", "none"]), np.float32(3), np.int64(20), torch.tensor(10),
                  seed=np.uint8(4), mixed=np.bool_(True))
    assert made.hash == Stream(toy(), ("fog", "none"), 3, 20, 10, seed=4, mixed=True).hash
    assert type(made.batch) is int and type(made.seed) is int and type(made.mixed) is bool and type(
        made.shifts[0]) is str
    json.dumps(made.to_dict())


def test_what_is_no_json_of_a_stream():
    for wrong, words in ((3, "is a text"), (None, "is a text"), ('{"kind": "joined", "parts": [], '
                                                                 '"hash": ""}',
                                                                 "lists its 'parts'")):
        with pytest.raises(ValueError, match=words):
            Stream.from_json(wrong)
    for bad in (("a", None), (0, 1.5), (None, 2)):
        with pytest.raises(ValueError, match="must be a whole number"):
            Stream(toy(), per_shift=20).cut(*bad)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_batches_on_a_device():
    stream = Stream(toy(), ("gaussian_noise", "pixelate"), per_shift=20, batch=7, rounds=2,
                    unknown=toy(seed=1))
    for here, there in zip(stream, stream.batches("cuda"), strict=True):
        assert there.x.is_cuda and not there.ids.is_cuda and torch.equal(here.ids, there.ids)
        assert ((here.x - there.x.cpu()).abs() > 1e-6).float().mean() < 1e-3


SMALL = Stream(toy(), ("none", "fog:3", "fog"), severity=2, per_shift=12, batch=5, rounds=2,
               unknown=toy(seed=1), unknown_ratio=0.5)
OTHER = Stream(toy(), ("fog:4", "snow"), severity=4, per_shift=10, batch=5)
KINDS = {
    "stream": SMALL,
    "joined": SMALL + OTHER,
    "cut": SMALL.cut(2, 9),
    "cut of joined": (SMALL + OTHER).cut(16, 20),
    "joined of cut": SMALL.cut(3, 4) + OTHER.cut(1, 3),
    "cached": CachedStream(SMALL),
    "cut of cached": CachedStream(SMALL + OTHER).cut(16, 20),
}


@pytest.mark.parametrize("stream", KINDS.values(), ids=KINDS)
def test_every_kind_of_stream_answers_what_a_stream_answers(stream):
    assert isinstance(stream, AbstractStream) and stream.classes == stream.known_set.classes
    assert stream.severity in (2, 4) and stream.ratio in (0, 0.5) and stream.reset == "never"
    assert stream.seed == 0 and stream.unknown_set is not None
    assert stream.whole.cut(0, 1).whole is stream.whole
    assert len(stream.shifts) == len(stream.segment_domains) == len(stream.segment_severities)
    assert tuple(dict.fromkeys(stream.segment_domains)) == stream.domains
    batches, plan = list(stream), list(stream.plan())
    assert len(batches) == len(plan) == len(stream)
    assert sum(map(len, batches)) == stream.n_images == stream.statistics()["images"]
    picture = stream.picture()
    for name in ("label", "known", "domain", "severity"):
        assert picture[name].tolist() == torch.cat([getattr(b, name) for b in batches]).tolist()
    for batch, planned in zip(batches, plan, strict=True):
        assert torch.equal(batch.ids, planned.ids) and torch.equal(batch.segment, planned.segment)
        assert torch.equal(batch.label, stream.labels(batch.ids))
        for i in batch.segment.unique().tolist():
            rows = batch.segment == i
            assert {stream.domains[d] for d in batch.domain[rows]} == {stream.segment_domains[i]}
            assert batch.severity[rows].unique().tolist() == [stream.segment_severities[i]]
            assert (batch.x[rows] - stream.images_of(batch.ids[rows], i)).abs().max() < 1e-6
    last = stream.domains[int(batches[-1].domain[-1])]
    assert stream.last_domain == last
    for start in range(len(stream)):
        one, = stream.batches(start=start, stop=start + 1)
        assert torch.equal(one.x, batches[start].x)
        assert one.new_domain == batches[start].new_domain and one.round == batches[start].round
    with pytest.raises(ValueError, match="cannot be rebuilt"):
        stream.check_rebuildable()
    assert stream.to_dict() == {**stream.settings(), "hash": stream.hash}
    assert len(stream.old_hash) == 12 and (stream + stream).hash != stream.hash


def test_the_severity_of_joined_streams_is_that_of_each_part():
    assert (SMALL + OTHER).segment_severities == (0, 3, 2, 4, 4)
    assert (SMALL + OTHER).severity == 4 and (SMALL + OTHER).domains == ("none", "fog", "snow")


def test_an_incomplete_stream_is_not_made():
    class Nothing(AbstractStream):
        pass

    with pytest.raises(TypeError, match="abstract"):
        Nothing()


def test_a_cached_stream_makes_each_batch_once(monkeypatch):
    made = []
    original = streams.make_images
    monkeypatch.setattr(streams, "make_images",
                        lambda *a: made.append(len(a[2])) or original(*a))
    stream = Stream(toy(), ("gaussian_noise", "none"), per_shift=20, batch=5)
    cached = CachedStream(stream)
    third, = cached.batches(start=2, stop=3)
    assert sum(made) == 5
    once, twice = list(cached), list(cached.cut(1, 8))
    assert once[2] is third and sum(made) == 40
    assert all(a is b for a, b in zip(once[1:], twice, strict=True))
    for a, b in zip(once, stream, strict=True):
        assert torch.equal(a.x, b.x) and torch.equal(a.ids, b.ids) and a.new_domain == b.new_domain
    assert cached.hash == stream.hash and cached.to_dict() == stream.to_dict()
    assert cached == CachedStream(stream) and "_made" not in repr(cached)


def test_a_cached_stream_is_rebuilt_as_the_stream_within():
    stream = Stream("digits", ("fog",), per_shift=20)
    assert Stream.from_json(CachedStream(stream).to_json()) == stream
    assert Stream.from_json(CachedStream(stream).cut(0, 1).to_json()) == stream.cut(0, 1)
