"""metrics: hand-worked numbers, scikit-learn and scipy as independent references, and the
identities every metric must obey."""
import math
import warnings

import numpy as np
import pytest
import torch

from tta_lab.analysis import metrics as M


@pytest.fixture(autouse=True)
def no_warnings():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def scored(seed=0, n=400, ties=True):
    rng = np.random.default_rng(seed)
    known = rng.random(n) < 0.6
    score = rng.normal(known * 1.0, 1.0)
    return (score.round(1) if ties else score), known, rng.random(n) < 0.7


def test_error_counts_in_per_cent_and_by_group():
    prediction = np.array([0, 1, 2, 2])
    label = np.array([0, 1, 1, 2])
    group = np.array([5, 5, 7, 7])
    assert M.error(prediction, label) == 25
    assert M.error_per_group(prediction, label, group) == {5: 0.0, 7: 50.0}
    # group 7 once more: the mean over groups counts groups, not images
    assert M.mean_error({5: 0.0, 7: 50.0, 9: 100.0}) == 50
    assert math.isnan(M.error([], [])) and math.isnan(M.mean_error({}))


def test_arrays_of_different_length_are_named():
    with pytest.raises(ValueError, match=r"prediction \(2,\), label \(3,\)"):
        M.error([0, 1], [0, 1, 2])


def test_auroc_by_hand_with_a_tie():
    # known 3, 2, 1; unknown 2, 0. Pairs won: 3>2, 3>0, 2=2 (half), 2>0, 1<2, 1>0 -> 4.5 of 6
    assert M.auroc([3, 2, 1, 2, 0], [1, 1, 1, 0, 0]) == pytest.approx(4.5 / 6)


@pytest.mark.parametrize("ties", [True, False])
def test_roc_auroc_and_fpr_agree_with_scikit_learn(ties):
    sk = pytest.importorskip("sklearn.metrics")
    for seed in range(5):
        score, known, _ = scored(seed, ties=ties)
        fpr, tpr, threshold = sk.roc_curve(known, score, drop_intermediate=False)
        ours = M.roc(score, known)
        np.testing.assert_allclose(ours[0], fpr)
        np.testing.assert_allclose(ours[1], tpr)
        np.testing.assert_allclose(ours[2], threshold)
        assert M.auroc(score, known) == pytest.approx(sk.roc_auc_score(known, score))
        assert M.fpr_at_tpr(score, known) == fpr[np.nonzero(tpr >= 0.95)[0][0]]


def test_auroc_identities():
    score, known, _ = scored(1)
    area = M.auroc(score, known)
    assert M.auroc(np.exp(score), known) == pytest.approx(area)
    assert M.auroc(-score, known) == pytest.approx(1 - area)
    noise = np.random.default_rng(0).random(4000)
    half = np.arange(4000) < 2000
    # standard error of the AUROC of random scores: sqrt((m + n + 1) / (12 m n))
    assert abs(M.auroc(noise, half) - 0.5) < 3 * math.sqrt(4001 / (12 * 2000 * 2000))


def test_fpr_takes_the_first_point_that_reaches_the_rate():
    # 20 known at 20..1: 19 of them (score >= 2) are exactly 95 %. Unknown at 1.5 stays out, 2
    # (tie) and 5.5 come in
    score = list(range(1, 21)) + [1.5, 2, 5.5, 0]
    known = [True] * 20 + [False] * 4
    assert M.fpr_at_tpr(score, known) == 2 / 4
    # now the known image at 1 must come in, and 1.5 with it
    assert M.fpr_at_tpr(score, known, tpr=0.951) == 3 / 4
    assert M.fpr_at_tpr(score, known, tpr=0.05) == 0
    with pytest.raises(ValueError, match="tpr"):
        M.fpr_at_tpr(score, known, tpr=95)


def test_oscr_by_hand():
    # known: 4 right, 3 wrong, 2 right; unknown: 3.5, 2, 1. Right known strictly above: 3.5 ->
    # {4}, 2 -> {4} (tie lost), 1 -> {4, 2}
    assert M.oscr([4, 3, 2, 3.5, 2, 1], [1, 1, 1, 0, 0, 0], [1, 0, 1, 0, 0, 0]) == pytest.approx(
        (1 + 1 + 2) / 3 / 3)


def test_oscr_is_the_area_under_the_curve_of_its_definition():
    score, known, correct = scored(3, n=120)
    steps = np.unique(score)
    # on the scores and between them
    thresholds = np.sort(np.concatenate([steps, steps - 0.01, [steps[-1] + 1]]))[::-1]
    ccr = ([np.mean((score > t)[known] & correct[known])
            for t in thresholds] + [np.mean(correct[known])])
    fpr = [np.mean((score >= t)[~known]) for t in thresholds] + [1.0]
    assert M.oscr(score, known, correct) == pytest.approx(np.trapezoid(ccr, fpr))


def test_oscr_is_bounded_by_closed_accuracy_and_reaches_it():
    score, known, correct = scored(4)
    accuracy = correct[known].mean()
    assert M.oscr(score, known, correct) < accuracy
    assert M.oscr(known * 1.0, known, correct) == pytest.approx(accuracy)
    assert M.oscr(score + 100 * known, known, correct) == pytest.approx(accuracy)


def test_a_side_without_images_gives_nan():
    assert math.isnan(M.auroc([1, 2], [1, 1])) and math.isnan(M.auroc(
        [1, 2], [0, 0])) and math.isnan(M.auroc([], []))
    assert math.isnan(M.fpr_at_tpr([1, 2], [1, 1])) and math.isnan(M.fpr_at_tpr(
        [1, 2], [0, 0])) and math.isnan(M.fpr_at_tpr([], []))
    assert math.isnan(M.oscr([1, 2], [1, 1], [1, 1])) and math.isnan(M.oscr([1, 2], [0, 0], [0, 0]))


def test_nan_scores_count_as_lowest_and_are_reported():
    score, known = [np.nan, 2, 1], np.array([True, True, False])
    assert M.auroc(score, known) == 0.5                      # one known image below, one above
    result = M.open_set(score, known, [True, True, False])
    assert result["bad_rows"] == 1 and result["auroc"] == 0.5 and result["accuracy"] == 1
    assert result["oscr"] == 0.5 and result["fpr95"] == 1
    assert result["h_auc"] == pytest.approx(2 * 1 * 0.5 / 1.5)


def test_harmonic_mean():
    assert M.h_auc(0.37, 0.37) == pytest.approx(0.37)
    assert M.h_auc(0.8, 0) == 0 and M.h_auc(0, 0) == 0
    assert M.h_auc(0.5, 1.0) == pytest.approx(2 / 3)


def test_ece_by_hand():
    # bins of width 1/2: [0, .5) holds .2 (right), gap .8; [.5, 1] holds .5 (wrong) and 1
    # (right): accuracy .5, confidence .75
    assert M.ece([0.2, 0.5, 1.0], [1, 0, 1], bins=2) == pytest.approx(0.8 / 3 + 0.25 * 2 / 3)
    table = M.reliability([0.2, 0.5, 1.0], [1, 0, 1], bins=4)
    assert table["n"].tolist() == [1, 0, 1, 1] and np.isnan(table["accuracy"][1])
    with pytest.raises(ValueError, match="pass probabilities"):
        M.ece([3.2], [1])


def test_ece_default_has_fifteen_left_closed_bins():
    table = M.reliability(np.arange(16) / 15, np.ones(16))
    # each edge opens its bin, 1 joins the last
    assert table["n"].tolist() == [1] * 14 + [2]


def test_perfect_and_uniform_predictions():
    label = np.array([0, 2, 1, 2])
    sure = M.classification(100.0 * np.eye(3)[label], label)
    assert [sure[k] for k in ("error", "nll", "brier", "ece")] == pytest.approx([0, 0, 0, 0],
                                                                                abs=1e-6)
    flat = M.classification(np.zeros((4, 3)), label)
    assert flat["nll"] == pytest.approx(math.log(3)) and flat["brier"] == pytest.approx(1 - 1 / 3)
    # class 0 is always said, right once in four
    assert flat["ece"] == pytest.approx(abs(1 / 4 - 1 / 3))


def test_nll_and_brier_agree_with_scikit_learn_and_ignore_shifts():
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(50, 4)).astype(np.float32)
    label = rng.integers(0, 4, 50)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    assert M.nll(logits, label) == pytest.approx(sk.log_loss(label, p, labels=range(4)))
    by_class = [sk.brier_score_loss((label == k).astype(int), p[:, k]) for k in range(4)]
    assert M.brier(logits, label) == pytest.approx(sum(by_class))
    shifted = logits.astype(np.float64) + rng.normal(size=(50, 1)) * 1000
    assert M.nll(shifted, label) == pytest.approx(M.nll(logits, label)) and M.brier(
        shifted, label) == pytest.approx(M.brier(logits, label))


def test_broken_rows_are_wrong_and_never_dropped():
    logits = np.array([[np.nan, 5.0], [0.0, 9.0], [np.inf, 0.0], [-np.inf, -np.inf], [-np.inf,
                                                                                      0.0]])
    # a single -inf is a probability of 0, not a fault
    assert M.predictions(logits).tolist() == [-1, 1, -1, -1, 1]
    result = M.classification(logits, [1, 1, 0, 0, 1])
    assert result["bad_rows"] == 3 and result["error"] == 60 and result["nll"] == math.inf
    assert result["brier"] == pytest.approx(3 * 2 / 5, abs=1e-6) and result["ece"] == pytest.approx(
        3 / 5, abs=1e-3)
    with pytest.raises(ValueError, match="leave unknown images out"):
        M.nll(np.zeros((1, 2)), [2])


def test_long_means_do_not_lose_small_numbers():
    logits = np.zeros((200_000, 2), dtype=np.float32)
    assert abs(M.nll(logits, np.zeros(200_000, int)) - math.log(2)) < 1e-12


def test_mean_and_deviation_over_seeds():
    mean, std = M.mean_std([[1.0, 2.0], [3.0, 2.0], [5.0, 2.0]])
    assert mean.tolist() == [3, 2] and std.tolist() == [2, 0]
    mean, std = M.mean_std([4.0])
    assert mean == 4 and np.isnan(std)
    assert all(np.isnan(v) for v in M.mean_std([]))


def test_t_quantiles_match_the_printed_table_and_scipy():
    # two-sided 95 %, as printed in every statistics book; df 1 is tan(0.475 pi) exactly
    for df, value in ((1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262),
                      (10, 2.228), (30, 2.042), (1000, 1.962)):
        assert M.t_quantile(0.95, df) == pytest.approx(value, abs=5.1e-4)
    assert M.t_quantile(0.95, 1) == pytest.approx(math.tan(0.475 * math.pi))
    assert M.t_quantile(0.99, 4) == pytest.approx(4.604, abs=5.1e-4)
    stats = pytest.importorskip("scipy.stats")
    for df in (1, 2, 3, 4, 7, 8, 29, 200):
        for level in (0.1, 0.5, 0.9, 0.95, 0.999):
            assert M.t_quantile(level, df) == pytest.approx(stats.t.ppf((1 + level) / 2, df),
                                                            rel=1e-8)
    for level, df in ((1.0, 3), (0.0, 3), (0.95, 0), (0.95, 2.5)):
        with pytest.raises(ValueError, match="degrees of freedom"):
            M.t_quantile(level, df)


def test_paired_interval_by_hand():
    # differences 1, 2, 3: mean 2, std 1, df 2, half-width 4.303 / sqrt(3)
    result = M.paired_interval([11, 12, 13], [10, 10, 10])
    assert result["difference"] == 2 and result["std"] == 1 and result["df"] == 2 and result[
        "n"] == 3
    half = 4.30265 / math.sqrt(3)
    assert (result["low"], result["high"]) == pytest.approx((2 - half, 2 + half), abs=1e-4)
    back = M.paired_interval([10, 10, 10], [11, 12, 13])
    assert (back["low"], back["high"]) == pytest.approx((-result["high"], -result["low"]))
    assert M.paired_interval([3, 4], [1, 2])["low"] == 2     # equal differences: no width
    one = M.paired_interval([3], [1])
    assert one["difference"] == 2 and math.isnan(one["low"]) and one["df"] == 0


def test_paired_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        a = rng.normal(1.0, 2.0, 5)
        result = M.paired_interval(a, np.zeros(5))
        hits += result["low"] <= 1.0 <= result["high"]
    assert abs(hits / 2000 - 0.95) < 3 * math.sqrt(0.95 * 0.05 / 2000)


# --- averages of errors

def test_images_without_a_label_are_refused_unless_left_out():
    prediction = np.array([0, 1, 2, 2])
    label = np.array([0, -1, 1, -1])
    where, logits = label >= 0, 9.0 * np.eye(3)[prediction]
    assert M.error(prediction, label, where=where) == 50
    assert M.error_per_group(prediction, label, [0, 0, 1, 1], where) == {0: 0.0, 1: 100.0}
    assert M.macro_f1(prediction, label, where) == pytest.approx(0.5) and M.classification(
        logits, label, where=where)["error"] == 50
    calls = [
        lambda: M.error(prediction, label),
        lambda: M.worst_group_accuracy(prediction, label, label), lambda: M.nll(logits, label),
        lambda: M.brier(logits, label), lambda: M.classwise_ece(logits, label),
        lambda: M.macro_f1(prediction, label),
        lambda: M.error_curve(prediction, label, [0, 0, 1, 1]),
        lambda: M.flip_rates(prediction, prediction, label),
        lambda: M.source_retention(prediction, prediction, label)
    ]
    for call in calls:
        with pytest.raises(ValueError, match=r"2 of 4 images have no label \(-1\).*where="):
            call()
    with pytest.raises(ValueError, match="boolean mask of shape"):
        M.error(prediction, label, where=[0, 2])


def test_weighted_mean_is_the_error_over_all_images():
    rng = np.random.default_rng(0)
    prediction = rng.integers(0, 3, 90)
    label = rng.integers(0, 3, 90)
    group = np.repeat([0, 1, 2], [10, 20, 60])
    errors = M.error_per_group(prediction, label, group)
    assert M.weighted_mean_error(errors,
                                 {0: 10, 1: 20, 2: 60}) == pytest.approx(M.error(prediction, label))
    assert M.weighted_mean_error({"a": 10.0, "b": math.nan}, {"a": 4, "b": 0}) == 10
    with pytest.raises(ValueError, match="'b'"):
        M.weighted_mean_error({"a": 1.0}, {"a": 1, "b": 2})
    assert M.mean_error_at([10, 20, 30, 40], [5, 1, 5, 3]) == 20
    assert M.worst_group_accuracy([0, 1, 1, 1], [0, 1, 0, 1], [7, 7, 8, 8]) == 50


def test_alexnet_against_itself_has_mce_100():
    alexnet = {
        name: 100 * share + np.array([-4.0, -2, 0, 2, 4])
        for name, share in M.ALEXNET_ERRORS.items()
    }
    assert M.mce(alexnet) == pytest.approx(100)
    assert M.mce({name: values / 2 for name, values in alexnet.items()},
                 "imagenet_c:/data/ImageNet-C", (224, 224)) == pytest.approx(50)
    # one type at twice its error adds 100 / 15; mean CE is a mean of ratios, not a ratio of means
    assert M.mce(alexnet | {"fog": 2 * alexnet["fog"]}) == pytest.approx(100 + 100 / 15)
    assert M.unnormalised_mce(alexnet) == pytest.approx(100 * sum(M.ALEXNET_ERRORS.values()) / 15)
    assert M.unnormalised_mce({"fog": [1, 2, 3, 4, 5], "snow": [5, 5, 5, 5, 5]}) == 4
    for call, text in ((lambda: M.mce(alexnet, "cifar10_c", 32), "none for cifar10_c at 32"),
                       (lambda: M.mce(alexnet, size=64), "224"), (lambda: M.mce({"fog": [1] * 5}),
                                                                  "exactly the 15 types"),
                       (lambda: M.mce({"fog": [50.0]}), "five errors per type")):
        with pytest.raises(ValueError, match=text):
            call()


def test_macro_f1_by_hand_and_against_other_packages():
    # class 0: TP 1, FP 1, FN 1 -> 1/2; class 1: TP 1, FP 1, FN 0 -> 2/3; class 2 is never
    # labelled; class 3: TP 0 -> 0
    assert M.macro_f1([0, 1, 1, 0], [0, 0, 1, 3]) == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    rng = np.random.default_rng(1)
    prediction = rng.integers(0, 5, 300)
    label = rng.integers(0, 4, 300)
    sk = pytest.importorskip("sklearn.metrics")
    assert M.macro_f1(prediction, label) == pytest.approx(
        sk.f1_score(label, prediction, average="macro", labels=np.unique(label)))


# --- scores and thresholds

def test_scores_of_known_logits():
    for name, value in (("msp", 1 / 4), ("max_logit", 0), ("energy", math.log(4)),
                        ("negative_entropy", -math.log(4))):
        assert getattr(M, name)(np.zeros((2, 4))) == pytest.approx([value] * 2)
    logits = np.log([[0.5, 0.25, 0.25], [1, 1e-300, 1e-300]])
    assert M.msp(logits) == pytest.approx([0.5, 1]) and M.max_logit(logits) == pytest.approx(
        [math.log(0.5), 0])
    assert M.energy(logits) == pytest.approx(
        [0, 0]) and M.negative_entropy(logits) == pytest.approx([-1.5 * math.log(2), 0])
    # the source says class 0 with 0.5; the adapted model gives that class 0.25
    assert M.confidence_difference(np.log([[0.25, 0.5, 0.25]]),
                                   logits[:1]) == pytest.approx([-0.25])
    assert M.max_cosine([[3, 4], [0, -2], [0, 0]], [[2, 0], [0, 1]]) == pytest.approx([0.8, 0, 0])


def test_scores_agree_with_torch_and_know_which_constants_do_not_matter():

    from tta_lab.core import scores

    rng = np.random.default_rng(0)
    logits = rng.normal(size=(40, 6)) * 3
    c = rng.normal(size=(40, 1)) * 10
    tensor = torch.from_numpy(logits)
    for ours, theirs in ((M.msp(logits), scores.confidence(tensor)), (M.energy(logits),
                                                                      scores.energy(tensor)),
                         (M.negative_entropy(logits), -scores.entropy(tensor))):
        np.testing.assert_allclose(ours, theirs.numpy(), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(M.msp(logits + c), M.msp(logits))
    np.testing.assert_allclose(M.negative_entropy(logits + c), M.negative_entropy(logits))
    np.testing.assert_allclose(M.energy(logits + c), M.energy(logits) + c[:, 0])
    np.testing.assert_allclose(M.max_logit(logits + c), M.max_logit(logits) + c[:, 0])


@pytest.mark.parametrize(
    "name", ["msp", "max_logit", "energy", "negative_entropy", "confidence_difference"])
def test_broken_rows_score_lowest_and_single_infinities_do_not(name):
    logits = np.array([[np.nan, 1.0], [np.inf, 0.0], [-np.inf, -np.inf], [-np.inf, 0.0]])
    score = getattr(M, name)(*([logits] * (2 if name == "confidence_difference" else 1)))
    assert np.isneginf(score[:3]).all() and np.isfinite(score[3])
    with pytest.raises(ValueError, match=r"expected logits \(N, C\)"):
        getattr(M, name)(*[np.zeros(3)] * (2 if name == "confidence_difference" else 1))


def test_interpolated_fpr_by_hand_and_against_numpy():
    # known 4, 3, 2, 1; unknown 3.5, 1.5. Points (0, .25), (.5, .25), (.5, .75), (1, .75), (1,
    # 1): first with TPR >= .6 is at (.5, .75)
    score, known = [4, 3, 2, 1, 3.5, 1.5], [1, 1, 1, 1, 0, 0]
    assert M.fpr_at_tpr(score, known, 0.6) == M.fpr_at_tpr(score, known, 0.6,
                                                           interpolate=True) == 0.5
    # known and unknown tied at 1: the last step leads from (0, .5) to (1, 1), so TPR .75 lies
    # half way
    assert M.fpr_at_tpr([2, 1, 1], [1, 1, 0], 0.75) == 1
    assert M.fpr_at_tpr([2, 1, 1], [1, 1, 0], 0.75, interpolate=True) == pytest.approx(0.5)
    for seed in range(5):
        # 0.95 falls between two points here, and there the line is that of numpy
        score, known, _ = scored(seed)
        fpr, tpr, _ = M.roc(score, known)
        assert 0.95 not in tpr and M.fpr_at_tpr(score, known, interpolate=True) == pytest.approx(
            np.interp(0.95, tpr, fpr))
        assert M.fpr_at_tpr(score, known, interpolate=True) <= M.fpr_at_tpr(score, known)


def test_the_threshold_of_owttt_by_hand():
    # .1 .2 | .8: group variances .0025 and 0, weight 2/3; any other split is wider; the
    # lowest t above .2 is .21
    assert M.split_threshold([0.1, 0.2, 0.8]) == 0.21
    assert M.split_threshold([0.3, 0.3]) == 0            # nothing to split


def test_the_threshold_minimises_the_within_group_variance():
    rng = np.random.default_rng(0)
    for size in (3, 40, 512):
        values = np.concatenate([rng.normal(0.25, 0.1, size), rng.normal(0.7, 0.1, size)])
        spread = {}
        for t in np.arange(100) / 100:
            parts = values[values < t], values[values >= t]
            if all(map(len, parts)):
                spread[t] = sum(len(p) / len(values) * p.var() for p in parts)
        assert spread[M.split_threshold(values)] == pytest.approx(min(spread.values()), abs=1e-12)


def test_h_acc_by_hand():
    # strangeness in batch 0: 1/8 1/4 | 3/4, threshold .26. In batch 1, with a queue of 3: 1/8
    # | 5/8 1/2, threshold .13 (all six: .26)
    score = 1 - np.array([1, 2, 6, 1, 5, 4]) / 8
    known = np.array([1, 1, 0, 1, 1, 0], bool)
    correct = [1, 0, 0, 1, 1, 0]
    batch = [0, 0, 0, 1, 1, 1]
    result = M.h_acc(score, known, correct, batch, queue=3)
    np.testing.assert_allclose(result["threshold"], [0.26, 0.13])
    # the known image at 5/8 is right but rejected, the one at 1/4 is wrong
    assert result["acc_s"] == 2 / 4
    assert result["acc_n"] == 1 and result["acc_h"] == pytest.approx(2 / 3)
    np.testing.assert_allclose(M.h_acc(score, known, correct, batch)["threshold"], [0.26, 0.26])
    # nothing splits: threshold 0, and 0 is not beyond it
    assert M.h_acc([1.0, 1.0], [1, 1], [1, 1], [0, 0])["acc_s"] == 1
    assert M.h_acc(score, known, np.zeros(6), batch)["acc_h"] == 0
    broken = M.h_acc([0.9, np.nan, 0.8, 0.1], [1, 1, 0, 0], [1, 1, 0, 0], [0] * 4)
    # a broken score is rejected; the queue holds .1 .2 .9
    assert broken["acc_s"] == 0.5 and broken["acc_n"] == 0.5
    with pytest.raises(ValueError, match="pass a probability"):
        M.h_acc([3.0, 1.0], [1, 0], [1, 0], [0, 0])
    with pytest.raises(ValueError, match="order of the stream"):
        M.h_acc([0.3, 0.1], [1, 0], [1, 0], [1, 0])


# --- calibration

def test_adaptive_ece_by_hand():
    # two bins of three: .1 .2 .3 (one right) and .6 .8 1 (two right): gaps |1/3 - .2| and
    # |2/3 - .8|
    confidence = [0.3, 0.1, 0.2, 1.0, 0.6, 0.8]
    correct = [1, 0, 0, 1, 0, 1]
    assert M.adaptive_ece(confidence, correct, bins=2) == pytest.approx(
        ((1 / 3 - 0.2) + (0.8 - 2 / 3)) / 2)
    # equal confidences are one bin, in any order
    assert M.adaptive_ece([0.7] * 10, [1] * 7 + [0] * 3) == pytest.approx(0)
    assert M.adaptive_ece(confidence, correct, bins=1) == pytest.approx(
        abs(3 / 6 - 0.5)) and math.isnan(M.adaptive_ece([], []))


def test_classwise_ece_by_hand():
    # one bin: class 0 is given .6 and .8, true half the time -> .2; class 1 the mirror image -> .2
    logits = np.log([[0.6, 0.4], [0.8, 0.2]])
    assert M.classwise_ece(logits, [0, 1], bins=1) == pytest.approx(0.2)
    # as sure as can be of the wrong class
    assert M.classwise_ece([[np.nan, 0.0]], [0]) == 1
    assert M.classwise_ece(100 * np.eye(3), [0, 1, 2]) == pytest.approx(0, abs=1e-6)


def test_binary_brier_is_half_of_the_two_class_one():
    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=(60, 2)), rng.integers(0, 2, 60)
    p = np.exp(M.log_softmax(logits))[:, 1]
    assert M.binary_brier(p, label) == pytest.approx(M.brier(logits, label) / 2)
    assert M.binary_brier([0.2, 1.0], [0, 0]) == pytest.approx(
        (0.04 + 1) / 2) and M.binary_brier([math.nan], [1]) == 1
    with pytest.raises(ValueError, match="probabilities must lie"):
        M.binary_brier([1.5], [1])


def test_agreement_with_torchmetrics():
    tm = pytest.importorskip("torchmetrics.functional.classification")

    rng = np.random.default_rng(2)
    logits = rng.normal(size=(500, 4)) * 2
    label = rng.integers(0, 4, 500)
    p = np.exp(M.log_softmax(logits))
    P, Y = torch.from_numpy(p), torch.from_numpy(label)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert M.ece(p.max(1),
                     p.argmax(1) == label) == pytest.approx(
                         tm.multiclass_calibration_error(P, Y, 4, n_bins=15).item(), abs=1e-6)
        by_class = [
            tm.binary_calibration_error(P[:, k],
                                        Y.eq(k).long(), n_bins=15).item() for k in range(4)
        ]
        assert M.classwise_ece(logits, label) == pytest.approx(np.mean(by_class), abs=1e-6)
        assert M.macro_f1(p.argmax(1), label) == pytest.approx(
            tm.multiclass_f1_score(P, Y, 4, average="macro").item(), abs=1e-6)
        matrix = M.confusion(p.argmax(1), label, 4)
        np.testing.assert_array_equal(matrix[:, :4],
                                      tm.multiclass_confusion_matrix(P, Y, 4).numpy())
        np.testing.assert_allclose(M.iou(matrix),
                                   tm.multiclass_jaccard_index(P, Y, 4, average="none").numpy(),
                                   rtol=1e-6)


# --- a run over time

def test_error_curve_by_hand():
    # batches of 2, windows of 2 batches: errors 1/4, then 2/3 (one image not counted), then
    # the short last batch, all left out
    prediction = np.zeros(9, int)
    label = np.array([0, 1, 0, 0, 1, 1, 0, 1, 1])
    batch = [0, 0, 1, 1, 5, 5, 6, 6, 9]
    where = np.array([1, 1, 1, 1, 1, 1, 1, 0, 0], bool)
    curve = M.error_curve(prediction, label, batch, window=2, where=where)
    assert curve["batch"].tolist() == [2, 4, 5] and curve["n"].tolist() == [4, 3, 0]
    np.testing.assert_allclose(curve["error"], [25, 200 / 3, math.nan])
    np.testing.assert_allclose(curve["cumulative"], [25, 300 / 7, 300 / 7])
    assert curve["cumulative"][-1] == M.error(prediction, label, where)
    assert len(M.error_curve([], [], [])["error"]) == 0
    with pytest.raises(ValueError, match="at least 1 batch"):
        M.error_curve(prediction, label, batch, window=0)


def test_forgetting_and_flips_by_hand():
    before = np.array([0, 1, 2, 0])
    after = np.array([0, 0, 0, 1])
    label = np.array([0, 1, 2, 1])
    assert M.flip_rates(before, after, label) == {"negative": 50.0, "positive": 25.0}
    assert M.source_retention(before, after, label) == 75 - 50
    assert M.error(before, label) - M.error(after, label) == 25 - 50
    # a_00 - a_20 = 20, a_11 - a_21 = -5; the last domain and what lies above the diagonal
    # play no part
    assert M.backward_forgetting([[80, 999, 0], [70, 60, 0], [60, 65, 90]]) == 7.5
    assert math.isnan(M.backward_forgetting([[80]]))
    with pytest.raises(ValueError, match="stages by domains"):
        M.backward_forgetting([[1, 2]])
    result = M.alternating([60, 5, 50, 7, 40, 11], [0, 1, 0, 1, 0, 1])
    assert result["clean"].tolist() == [5, 7, 11
                                        ] and result["drift"] == 6 and result["shifted_mean"] == 50


def test_collapse_indicators():
    prediction = np.array([0, 1, 2, 3, 0, 0, 1, -1])
    batch = np.array([0, 0, 0, 0, 1, 1, 2, 2])
    assert M.top_class_share(prediction) == 3 / 8 and M.classes_seen(
        prediction, batch) == 4 and M.classes_seen(prediction, batch, last=2) == 2
    curve = M.collapse_curve(prediction, batch, last=2)
    assert curve["classes"].tolist() == [4, 4, 2
                                         ] and curve["top_share"].tolist() == [1 / 4, 3 / 6, 2 / 4]
    # sure of each, undecided on the whole
    assert M.mean_prediction_entropy(99.0 * np.eye(4)) == pytest.approx(math.log(4))
    assert M.mean_prediction_entropy([[99.0, 0], [99.0, 0], [math.nan,
                                                             0]]) == pytest.approx(0, abs=1e-9)
    assert M.effective_rank(np.eye(5)) == pytest.approx(5) and M.effective_rank(np.ones(
        (6, 3))) == pytest.approx(1)
    # singular values 3 and 1: p = 3/4, 1/4
    assert M.effective_rank(np.diag([3.0, 1.0])) == pytest.approx(
        math.exp(0.75 * math.log(4 / 3) + 0.25 * math.log(4)))
    assert M.effective_rank(np.zeros((2, 2))) == 0 and math.isnan(M.effective_rank([[math.inf, 0]]))


def test_cost_of_a_trace():
    from tta_lab.core.trace import Trace

    steps = {
        "n": [10, 10, 10, 10, 5], "seconds": [9, 9, 9, 0.02, 0.02],
        "forwards": [20, 20, 20, 20, 10], "backwards": [10, 10, 0, 0,
                                                        5], "n_kept": [10, 4, 0, 0, 5]
    }
    trace = Trace.from_columns({"id": np.arange(45)}, steps, {"trainable_parameters": 12})
    result = M.cost(trace)
    assert result["forwards"] == 2 and result["backwards"] == 25 / 45 and result[
        "learned_from"] == 19 / 45
    assert result["ms_per_image"] == pytest.approx(
        (2 + 4) / 2) and result["batch"] == 10 and result["images"] == 45
    assert result["trainable_parameters"] == 12 and math.isnan(result["peak_memory_bytes"])
    assert math.isnan(M.cost(trace, warmup=5)["ms_per_image"])


# --- segmentation

def test_segmentation_by_hand():
    # class 2 is absent from the labels, once predicted; 255 is left out; one prediction is broken
    label = np.array([[0, 0, 1], [1, 255, 1]])
    matrix = M.confusion(np.array([[0, 1, 1], [2, 0, -1]]), label, 3)
    assert matrix.tolist() == [[1, 1, 0, 0], [0, 1, 1, 1], [0, 0, 0, 0]]
    np.testing.assert_allclose(M.iou(matrix), [1 / 2, 1 / 4, math.nan])
    assert M.miou(matrix) == pytest.approx(3 / 8) and M.pixel_accuracy(matrix) == 2 / 5
    assert M.miou(M.confusion(label, label, 3)) == 1
    assert M.iou(M.confusion(np.array([1, 1, 0, 0, 2]), np.array([0, 0, 1, 1, 2]),
                             3)).tolist() == [0, 0, 1]
    assert math.isnan(M.miou(np.zeros((2, 2)))) and math.isnan(M.pixel_accuracy(np.zeros((2, 2))))
    with pytest.raises(ValueError, match="label values run from 0 to 7, expected 0 to 2"):
        M.confusion([0, 0], [0, 7], 3)
    with pytest.raises(ValueError, match="differ in shape"):
        M.confusion(np.zeros((2, 2)), np.zeros((4, 4)), 3)
    with pytest.raises(ValueError, match=r"\(C, C\)"):
        M.iou(np.zeros((2, 5)))


def test_the_matrix_of_a_domain_is_the_sum_of_its_batches():
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    prediction, label = rng.integers(0, 4, (2, 6, 8, 8))
    whole = M.confusion(prediction, label, 4)
    np.testing.assert_array_equal(
        sum(M.confusion(p, y, 4) for p, y in zip(prediction, label, strict=True)), whole)
    np.testing.assert_array_equal(whole[:, :4],
                                  sk.confusion_matrix(label.ravel(), prediction.ravel()))
    assert M.miou(whole) == pytest.approx(
        sk.jaccard_score(label.ravel(), prediction.ravel(), average="macro"))


# --- the table

def test_every_metric_is_defined_once():
    rows = M.definitions()
    names = [row["name"] for row in rows]
    helpers = {
        "ALEXNET_ERRORS", "classification", "collapse_curve", "definitions", "harmonic_mean",
        "log_softmax", "mean_std", "open_set", "paired_interval", "predictions", "reliability",
        "roc", "split_threshold", "t_probability", "t_quantile"
    }
    assert len(set(names)) == len(names) and set(names) == set(M.__all__) - helpers and all(
        hasattr(M, name) for name in M.__all__)
    for row in rows:
        assert row["formula"] and row["range"] and row["source"], row
        assert row["good"] in ("low", "high", "", "negative low"), row
    assert {
        row["positive"] for row in rows
        if row["name"] in ("auroc", "fpr_at_tpr", "oscr", "msp", "h_acc")
    } == {"known"}


PROBABILITIES = np.random.default_rng(0).dirichlet(np.ones(3), 5)


@pytest.mark.parametrize("call", [
    lambda p: M.nll(p, [0, 1, 2, 0, 1]), lambda p: M.brier(p, [0, 1, 2, 0, 1]),
    lambda p: M.classification(p, [0, 1, 2, 0, 1]), lambda p: M.classwise_ece(p, [0, 1, 2, 0, 1]),
    M.msp, M.max_logit, M.energy, M.negative_entropy, M.mean_prediction_entropy,
    lambda p: M.confidence_difference(-5 * p, p),
    lambda p: M.msp(torch.from_numpy(p).float().requires_grad_()),
    lambda p: M.msp(np.vstack([p, [np.nan] * 3])),
    lambda p: M.nll(p.astype(np.float16), [0, 1, 2, 0, 1]),
    lambda p: M.energy(torch.from_numpy(p).bfloat16())
])
def test_probabilities_are_not_taken_for_logits(call):
    with pytest.raises(ValueError, match=r"must be logits, .* these are probabilities; pass "
                                         r"np.log\(p\)"):
        call(PROBABILITIES)
    call(np.log(PROBABILITIES))
    call(3 * PROBABILITIES)
    assert M.msp(np.log(PROBABILITIES)) == pytest.approx(
        PROBABILITIES.max(1)) and (M.predictions(PROBABILITIES) == PROBABILITIES.argmax(1)).all()


@pytest.mark.parametrize(
    "call, words",
    [(lambda: M.error([0.2, 0.9], [0, 1]), "prediction must hold class indices, whole numbers, got "
      "0.2; .*argmax"),
     (lambda: M.error([0, 1], [0.0, math.nan]), "label must hold class indices, whole numbers, got "
      "nan"),
     (lambda: M.error([0, 1], ["0", "1"]), "label holds names of classes, prediction class "
      "indices, which are never equal"),
     (lambda: M.error([0, 1], [0, None]), "label must hold numbers or names, got object"),
     (lambda: M.error(np.eye(2), [0, 1]), r"one shape \(N,\)"),
     (lambda: M.error([0, 1], [[0], [1]]), r"one shape \(N,\)"),
     (lambda: M.nll([[1.0, 2.0]], [0.5]), "label must hold class indices"),
     (lambda: M.nll([[1.0, 2.0]], ["a"]), "not names of classes"),
     (lambda: M.nll([[1.0, 2.0]], [2]), "labels run from 2 to 2, the logits have 2"),
     (lambda: M.nll([1.0, 2.0], [0]), "expected logits"),
     (lambda: M.predictions([1.0, 2.0]), "expected logits"),
     (lambda: M.log_softmax([1.0, 2.0]), "expected logits"),
     (lambda: M.msp([["a", "b"]]), "logits must hold numbers"),
     (lambda: M.msp(np.zeros((2, 0))), "expected logits"),
     (lambda: M.auroc([0.1, 0.2, 0.3], [0, 3, 1]), "positive must hold True and False .*compare "
      "first"), (lambda: M.auroc([0.1, 0.2], [-1, 1]), "positive must hold True"),
     (lambda: M.auroc([0.1, 0.2], ["True", "False"]), "positive must hold True"),
     (lambda: M.auroc([0.1, 0.2], [1.0, math.nan]), "positive must hold True"),
     (lambda: M.auroc([True, False], [0.3, 0.1]), "score must hold numbers"),
     (lambda: M.oscr([0.1, 0.2], [1, 0], [7, 9]), "correct must hold True"),
     (lambda: M.open_set([0.1], [2], [1]), "known must hold True"),
     (lambda: M.ece([85.0, 60.0], [1, 0]), r"confidences must lie in \[0, 1\], got 60 to 85; .*per "
      r"cent divided by 100"),
     (lambda: M.adaptive_ece([-2.0, 3.0], [1, 0]), "confidences must lie"),
     (lambda: M.ece([0.5], [1], bins=0), "bins must be a whole number"),
     (lambda: M.adaptive_ece([0.5], [3]), "correct must hold True"),
     (lambda: M.binary_brier([0.5], [2]), "outcome must hold True"),
     (lambda: M.h_auc(85.0, 0.9), r"accuracy must lie in \[0, 1\]"),
     (lambda: M.h_auc(0.8, 90), "area must lie"), (lambda: M.harmonic_mean(-1, 1), "from 0"),
     (lambda: M.fpr_at_tpr([1.0, 2.0], [1, 0], 95), "tpr must lie"),
     (lambda: M.mean_error([10, 20]), "expected the error of each group"),
     (lambda: M.mean_error({"fog": 120.0}), "errors in per cent, 0 to 100"),
     (lambda: M.weighted_mean_error({"a": 5.0}, {"a": -1}), "sizes must be numbers of images"),
     (lambda: M.mean_error_at([0.1, -0.2], [5, 5]), "errors must be errors in per cent"),
     (lambda: M.mce({name: [share] * 5 for name, share in M.ALEXNET_ERRORS.items()}), "look like "
      "shares; give per cent"),
     (lambda: M.unnormalised_mce({"fog": [1, 2, 3, 4, math.nan]}), r"those of \['fog'\] are not"),
     (lambda: M.error_curve([0, 1], [0, 1], [1, 0]), "batch numbers fall"),
     (lambda: M.error_curve([0, 1], [0, 1], [0, math.nan]), "batch numbers"),
     (lambda: M.error_curve([0], [0], [0], window=2.5), "window"),
     (lambda: M.classes_seen([0, 1], [0, 1], last=0), "last must be"),
     (lambda: M.error_per_group([0, 1], [0, 1], [0.0, math.nan]), "1 of 2 images have NaN as their "
      "group"), (lambda: M.top_class_share([0.3, 0.7]), "prediction must hold class indices"),
     (lambda: M.alternating([1.0, 2.0], [0, 2]), "clean must hold True"),
     (lambda: M.max_cosine(np.ones((2, 3)), np.ones((2, 4))), r"prototypes \(K, D\)"),
     (lambda: M.max_cosine(np.ones((2, 3)), [[1, 2, math.nan]]), "prototypes must be finite"),
     (lambda: M.split_threshold([0.1, math.nan]), "must not hold NaN"),
     (lambda: M.h_acc([0.5], [1], [1], [0], queue=1), "queue must be"),
     (lambda: M.confusion([[0.2]], [[0]], 2), "prediction must hold class indices"),
     (lambda: M.confusion([[0]], [[0]], 0), "classes must be"),
     (lambda: M.iou(np.eye(2) / 2), "expected counts of pixels"),
     (lambda: M.miou([1, 2]), "expected a confusion matrix"),
     (lambda: M.pixel_accuracy([[1, -1], [0, 1]]), "expected counts"),
     (lambda: M.pixel_accuracy([1, 2]), "expected a confusion matrix"),
     (lambda: M.paired_interval([1.0], [2.0], level=95), "level must lie between 0 and 1"),
     (lambda: M.mean_std(["a"]), "values must hold numbers"),
     (lambda: M.error([0, 1], [0, 1], where=[0, 1]), "where must be a boolean mask")])
def test_what_would_be_misread_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_no_function_hides_the_module_it_stands_in():
    import importlib
    import pkgutil
    import types

    for found in pkgutil.iter_modules(M.__path__):
        importlib.import_module(f"tta_lab.analysis.metrics.{found.name}")
        assert isinstance(getattr(M, found.name), types.ModuleType), found.name


def test_the_same_numbers_in_other_forms():
    prediction, label = np.array([0, 1, 2]), np.array([0, 2, 2])
    for form in (list, lambda v: v.astype(float), torch.from_numpy,
                 lambda v: torch.from_numpy(v).to(torch.int32), lambda v: v.astype(np.int8)):
        assert M.error(form(prediction), form(label)) == pytest.approx(100 / 3)
    assert M.error(["cat", "dog"], np.array(["cat", "cat"])) == 50 and math.isnan(M.error([], []))
    for known in ([1, 0], [True, False], np.array([1.0, 0.0]), torch.tensor([True, False])):
        assert M.auroc(torch.tensor([0.9, 0.1], requires_grad=True), known) == 1
    assert M.msp(torch.tensor([[1.0, 2.0]],
                              dtype=torch.bfloat16)) == pytest.approx(1 / (1 + math.exp(-1)))
