"""metrics: hand-worked numbers, scikit-learn and scipy as independent references, and the identities every metric must obey."""
import math
import warnings

import numpy as np
import pytest

from tta_lab import metrics as M


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
    prediction, label, group = np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2]), np.array([5, 5, 7, 7])
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
    # 20 known at 20..1: 19 of them (score >= 2) are exactly 95 %. Unknown at 1.5 stays out, 2 (tie) and 5.5 come in
    score, known = list(range(1, 21)) + [1.5, 2, 5.5, 0], [True] * 20 + [False] * 4
    assert M.fpr_at_tpr(score, known) == 2 / 4
    assert M.fpr_at_tpr(score, known, tpr=0.951) == 3 / 4   # now the known image at 1 must come in, and 1.5 with it
    assert M.fpr_at_tpr(score, known, tpr=0.05) == 0
    with pytest.raises(ValueError, match="tpr"):
        M.fpr_at_tpr(score, known, tpr=95)


def test_oscr_by_hand():
    # known: 4 right, 3 wrong, 2 right; unknown: 3.5, 2, 1. Right known strictly above: 3.5 -> {4}, 2 -> {4} (tie lost), 1 -> {4, 2}
    assert M.oscr([4, 3, 2, 3.5, 2, 1], [1, 1, 1, 0, 0, 0], [1, 0, 1, 0, 0, 0]) == pytest.approx((1 + 1 + 2) / 3 / 3)


def test_oscr_is_the_area_under_the_curve_of_its_definition():
    score, known, correct = scored(3, n=120)
    steps = np.unique(score)
    thresholds = np.sort(np.concatenate([steps, steps - 0.01, [steps[-1] + 1]]))[::-1]   # on the scores and between them
    ccr = [np.mean((score > t)[known] & correct[known]) for t in thresholds] + [np.mean(correct[known])]
    fpr = [np.mean((score >= t)[~known]) for t in thresholds] + [1.0]
    assert M.oscr(score, known, correct) == pytest.approx(np.trapezoid(ccr, fpr))


def test_oscr_is_bounded_by_closed_accuracy_and_reaches_it():
    score, known, correct = scored(4)
    accuracy = correct[known].mean()
    assert M.oscr(score, known, correct) < accuracy
    assert M.oscr(known * 1.0, known, correct) == pytest.approx(accuracy)
    assert M.oscr(score + 100 * known, known, correct) == pytest.approx(accuracy)


def test_a_side_without_images_gives_nan():
    assert math.isnan(M.auroc([1, 2], [1, 1])) and math.isnan(M.auroc([1, 2], [0, 0])) and math.isnan(M.auroc([], []))
    assert math.isnan(M.fpr_at_tpr([1, 2], [1, 1])) and math.isnan(M.fpr_at_tpr([1, 2], [0, 0])) and math.isnan(M.fpr_at_tpr([], []))
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
    # bins of width 1/2: [0, .5) holds .2 (right), gap .8; [.5, 1] holds .5 (wrong) and 1 (right): accuracy .5, confidence .75
    assert M.ece([0.2, 0.5, 1.0], [1, 0, 1], bins=2) == pytest.approx(0.8 / 3 + 0.25 * 2 / 3)
    table = M.reliability([0.2, 0.5, 1.0], [1, 0, 1], bins=4)
    assert table["n"].tolist() == [1, 0, 1, 1] and np.isnan(table["accuracy"][1])
    with pytest.raises(ValueError, match="pass probabilities"):
        M.ece([3.2], [1])


def test_ece_default_has_fifteen_left_closed_bins():
    table = M.reliability(np.arange(16) / 15, np.ones(16))
    assert table["n"].tolist() == [1] * 14 + [2]             # each edge opens its bin, 1 joins the last


def test_perfect_and_uniform_predictions():
    label = np.array([0, 2, 1, 2])
    sure = M.classification(100.0 * np.eye(3)[label], label)
    assert [sure[k] for k in ("error", "nll", "brier", "ece")] == pytest.approx([0, 0, 0, 0], abs=1e-6)
    flat = M.classification(np.zeros((4, 3)), label)
    assert flat["nll"] == pytest.approx(math.log(3)) and flat["brier"] == pytest.approx(1 - 1 / 3)
    assert flat["ece"] == pytest.approx(abs(1 / 4 - 1 / 3))  # class 0 is always said, right once in four


def test_nll_and_brier_agree_with_scikit_learn_and_ignore_shifts():
    sk = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    logits, label = rng.normal(size=(50, 4)).astype(np.float32), rng.integers(0, 4, 50)
    p = np.exp(logits.astype(np.float64))
    p /= p.sum(1, keepdims=True)
    assert M.nll(logits, label) == pytest.approx(sk.log_loss(label, p, labels=range(4)))
    by_class = [sk.brier_score_loss((label == k).astype(int), p[:, k]) for k in range(4)]
    assert M.brier(logits, label) == pytest.approx(sum(by_class))
    shifted = logits.astype(np.float64) + rng.normal(size=(50, 1)) * 1000
    assert M.nll(shifted, label) == pytest.approx(M.nll(logits, label)) and M.brier(shifted, label) == pytest.approx(M.brier(logits, label))


def test_broken_rows_are_wrong_and_never_dropped():
    logits = np.array([[np.nan, 5.0], [0.0, 9.0], [np.inf, 0.0], [-np.inf, -np.inf], [-np.inf, 0.0]])
    assert M.predictions(logits).tolist() == [-1, 1, -1, -1, 1]   # a single -inf is a probability of 0, not a fault
    result = M.classification(logits, [1, 1, 0, 0, 1])
    assert result["bad_rows"] == 3 and result["error"] == 60 and result["nll"] == math.inf
    assert result["brier"] == pytest.approx(3 * 2 / 5, abs=1e-6) and result["ece"] == pytest.approx(3 / 5, abs=1e-3)
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
    for df, value in ((1, 12.706), (2, 4.303), (3, 3.182), (4, 2.776), (5, 2.571), (9, 2.262), (10, 2.228), (30, 2.042), (1000, 1.962)):
        assert M.t_quantile(0.95, df) == pytest.approx(value, abs=5.1e-4)
    assert M.t_quantile(0.95, 1) == pytest.approx(math.tan(0.475 * math.pi))
    assert M.t_quantile(0.99, 4) == pytest.approx(4.604, abs=5.1e-4)
    stats = pytest.importorskip("scipy.stats")
    for df in (1, 2, 3, 4, 7, 8, 29, 200):
        for level in (0.1, 0.5, 0.9, 0.95, 0.999):
            assert M.t_quantile(level, df) == pytest.approx(stats.t.ppf((1 + level) / 2, df), rel=1e-8)
    for level, df in ((1.0, 3), (0.0, 3), (0.95, 0), (0.95, 2.5)):
        with pytest.raises(ValueError, match="degrees of freedom"):
            M.t_quantile(level, df)


def test_paired_interval_by_hand():
    # differences 1, 2, 3: mean 2, std 1, df 2, half-width 4.303 / sqrt(3)
    result = M.paired_interval([11, 12, 13], [10, 10, 10])
    assert result["difference"] == 2 and result["std"] == 1 and result["df"] == 2 and result["n"] == 3
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
