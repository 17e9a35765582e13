"""The table of all metrics: formula, range, which way is good, what counts as positive, and where
the definition is from."""
from __future__ import annotations

_ROWS = """
error                   | 100/N sum [yhat_i != y_i] | 0..100 % | low | | the field's convention
error_per_group         | error over the images of each domain, round or class | 0..100 % | low | | the field's convention
mean_error              | mean over groups of their errors | 0..100 % | low | | the field's headline
weighted_mean_error     | sum_g n_g E_g / sum_g n_g | 0..100 % | low | | the error over all images
mean_error_at           | mean error of the segments of one severity (5) | 0..100 % | low | | CoTTA, 2203.13591
error_curve             | error per window of B batches, and cumulative | 0..100 % | low | | the field's convention
unnormalised_mce        | mean over types of the error averaged over severities 1 to 5 | 0..100 % | low | | Hendrycks & Dietterich, 1903.12261
mce                     | 100 mean_c (sum_s E_sc / sum_s E_sc of AlexNet), ImageNet-C | 0.. | low | | Hendrycks & Dietterich, 1903.12261
worst_group_accuracy    | min_g (100 - error_g) | 0..100 % | high | | WILDS, 2012.07421
macro_f1                | mean over labelled classes of 2 TP / (2 TP + FP + FN) | 0..1 | high | class k, in turn | WILDS, 2012.07421
msp                     | max_k p_k | 1/C..1 | | known | Hendrycks & Gimpel, 1610.02136
max_logit               | max_k l_k | any number | | known | Hendrycks et al., 1911.11132
energy                  | log sum_k exp l_k | any number | | known | Liu et al., 2010.03759
negative_entropy        | sum_k p_k log p_k | -log C..0 nats | | known | STAMP, 2407.15773
confidence_difference   | p_adapted[c] - p_source[c], c = class of the source | -1..1 | | known | wisdom of crowds, 2308.06879
max_cosine              | max_k cos(feature, prototype_k) | -1..1 | | known | OWTTT, 2308.09942
auroc                   | P(score of a known > score of an unknown), ties half | 0..1 | high | known | Fawcett 2006
fpr_at_tpr              | share of unknown accepted where 95 % of known are: first point | 0..1 | low | known | Liang et al., 1706.02690
oscr                    | area under CCR(t) over FPR(t), closed at (1, closed accuracy) | 0..accuracy | high | known | Dhamija et al., 1811.04110
h_auc                   | 2 a A / (a + A), a = closed accuracy, A = AUROC | 0..1 | high | known | STAMP, 2407.15773
h_acc                   | 2 S N / (S + N), S = known accepted and right, N = unknown rejected | 0..1 | high | known | OWTTT, 2308.09942
nll                     | -1/N sum log p_i,y_i | 0.. nats | low | | the field's convention
brier                   | 1/N sum_i sum_k (p_ik - [k = y_i])^2 | 0..2 | low | | Brier 1950
binary_brier            | 1/N sum (q_i - o_i)^2, o_i = 0 or 1 | 0..1 | low | outcome happened | Brier 1950
ece                     | sum_b n_b/N abs(acc_b - conf_b), 15 equal-width bins | 0..1 | low | | Guo et al., 1706.04599
adaptive_ece            | the same, bins of equal mass | 0..1 | low | | Nguyen & O'Connor, 1508.05154
classwise_ece           | 1/C sum_k ECE of p_k against [y = k] | 0..1 | low | | Kull et al., 1910.12656
source_retention        | clean accuracy of the source - of the adapted model | -100..100 points | low | | EATA, 2204.02610
alternating             | errors of the clean segments; drift = last - first | -100..100 points | low | | the field's convention
backward_forgetting     | mean_d<D (a_dd - a_Dd), a_td = accuracy on domain d after stage t | unit of a | low | | after Chaudhry et al., 1801.10112
flip_rates              | share right, then wrong (negative), and the reverse (positive) | 0..100 % | negative low | | Yan et al., 2011.09161
top_class_share         | largest share of one predicted class | 0..1 | low | | collapse indicator
classes_seen            | classes predicted in the last 10 batches | 0..C | high | | collapse indicator
mean_prediction_entropy | H(mean_i p_i) | 0..log C nats | high | | collapse indicator
effective_rank          | exp H(s / sum s), s = singular values of the features | 1..min(N, D) | high | | Roy & Vetterli 2007
confusion               | pixels of true class k (row) predicted as j (column) | 0.. | | | the field's convention
iou                     | M_kk / (row_k + column_k - M_kk) | 0..1 | high | class k, in turn | PASCAL VOC
miou                    | mean IoU over classes present in the ground truth | 0..1 | high | | PASCAL VOC
pixel_accuracy          | trace M / sum M | 0..1 | high | | the field's convention
cost                    | passes per image; median ms per image after 3 steps; memory | 0.. | low | | EATA, 2204.02610, for the counts
"""  # noqa: E501
COLUMNS = ("name", "formula", "range", "good", "positive", "source")


def definitions() -> list[dict[str, str]]:
    """One row per metric: name (a function of `tta_lab.analysis.metrics`), formula, range, good
    ("low", "high", or "" for a score or a count), positive (the positive class, where there is
    one) and source (four digits, a dot, five digits: arXiv).
    """
    return [
        dict(zip(COLUMNS, map(str.strip, line.split("|")), strict=True))
        for line in _ROWS.strip().splitlines()
    ]
