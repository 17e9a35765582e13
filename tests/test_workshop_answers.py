"""Answers that somebody wrote who had not seen the checks: none wrong is accepted or named wrongly, none right is refused, nearly all are named."""

import importlib.util
from functools import cache
from pathlib import Path

import pytest

from tta_lab.workshop import MODULES, judge

FOLDER = Path(__file__).parent / "workshop_answers"
NAMED_AT_LEAST = 0.95
GENERIC = {  # true, but no cause: what was seen, and what was expected
    "other", "other_answer", "other_gradient", "other_length", "error", "shape", "not_finite", "random", "scaled", "shifted",
    "wrong_gradient", "constant", "numbers", "all", "none", "nothing_learned", "no_gradient", "zero_gradient", "never_asked",
    "kept_but_other", "moved_otherwise",
}
CAUSES = {  # exercise -> function -> the mistake that says its cause
    "entropy": {
        "softmax_over_images": "axis",
        "sum_over_images": "summed_over_images",
        "both_over_images": "axis+summed_over_images",
        "bits": "base_2",
        "base_ten": "base_10",
        "no_minus": "sign",
        "mean_over_classes": "mean_over_classes",
        "batch_sum": "one_number",
        "batch_mean": "one_number",
        "plain_p_log_p": "nan",
        "nan_to_num": "nan_gradient",
        "where_positive": "nan_gradient",
        "special_entr": "nan_gradient",
        "large_epsilon": "large_epsilon",
        "sigmoid": "sigmoid",
        "no_softmax": "logits_as_probabilities",
        "in_place": "changes_input",
        "minus_log_of_largest": "pseudo_label",
        "logits_times_log_p": "logits_as_probabilities",
        "under_no_grad": "detached",
        "keepdim": "keepdim",
        "normalised": "divided_by_ln_classes",
        "softmax_twice": "softmax_twice",
        "exp_overflows": "overflow",
        "gini": "no_logarithm",
        "of_the_mean_prediction": "mean_first",
        "return_inside_the_loop": "one_image",
        "no_logarithm": "sum_of_probabilities",
        "exponential": "exponential",
        "entropy_without_return": "no_return",
    },
    "tent_step": {
        "no_zero_grad": "no_zero_grad",
        "cleared_before_the_step": "zeroed_before_step",
        "no_step": "no_step",
        "no_backward": "no_backward",
        "step_before_backward": "step_before_backward",
        "step_is_one_batch_late": "step_before_backward",
        "sum_of_entropies": "sum",
        "maximises": "ascent",
        "answers_after_the_step": "after",
        "not_detached": "attached",
        "returns_probabilities": "returns_probabilities",
        "returns_classes": "returns_classes",
        "returns_the_loss": "returns_loss",
        "step_without_return": "no_return",
        "sets_eval": "mode",
        "sets_train": "mode",
        "eval_and_back": "mode",
        "forward_under_no_grad": "no_history",
        "detached_too_early": "cut_off",
        "pseudo_labels": "pseudo_label",
        "two_steps": "many_steps",
        "changes_images": "changes_input",
        "own_optimizer": "own_optimizer",
        "image_by_image": "batch_of_one",
        "one_step_per_image": "many_steps",
        "entropy_of_the_mean": "entropy_of_mean",
        "backward_twice": "backward_twice",
        "learns_on_a_copy": "copy_asked",
        "zero_grad_not_called": "no_zero_grad",
        "returns_too_early": "no_step",
        "entropy_of_probabilities": "softmax_twice",
    },
    "crowd_filter": {
        "class_of_the_adapted": "class_of_adapted",
        "largest_of_each": "own_maximum",
        "strictly_greater": "strict",
        "keeps_the_falling": "reversed",
        "keeps_only_the_falling": "reversed",
        "compares_logits": "logits",
        "softmax_over_images": "axis",
        "argmax_over_images": "one_per_class",
        "returns_the_difference": "not_a_decision",
        "returns_floats": "not_bool",
        "returns_indices": "indices",
        "column": "keepdim",
        "broadcasts": "square",
        "returns_a_list": "not_a_tensor",
        "one_decision": "one_decision",
        "same_class": "same_class",
        "compares_entropies": "entropies",
        "threshold": "class_of_adapted+fixed_threshold",
        "swapped": "swapped",
        "in_place": "changes_input",
        "any_class": "any_class",
        "absolute": "absolute",
        "against_itself": "same_class",
    },
    "filtered_step": {
        "learns_from_all": "keeps_all",
        "learns_from_the_dropped": "reversed",
        "sum_of_kept": "not_divided",
        "divides_by_all": "divides_by_all",
        "no_any": "empty_nan_loss",
        "clamp_and_step": "empty_momentum",
        "nan_to_num_and_step": "empty_momentum",
        "step_outside_the_if": "empty_stale",
        "falls_back_to_all": "empty_learns",
        "all_instead_of_any": "all_in_place_of_any",
        "kept_once_more": "second_forward",
        "source_is_recorded": "grad_for_source",
        "source_detached_afterwards": "grad_for_source",
        "filter_swapped": "swapped",
        "loss_on_the_source": "source_learns",
        "answers_the_kept": "returns_kept",
        "source_answers_the_dropped": "mixes_source",
        "returns_the_source": "returns_source",
        "answers_after_the_step": "after",
        "not_detached": "attached",
        "early_return_not_detached": "attached",
        "return_under_the_if": "no_return",
        "no_zero_grad": "no_zero_grad",
        "source_eval": "mode",
        "model_train": "mode",
        "both_under_no_grad": "no_history",
        "tent_first": "many_steps",
        "source_is_not_asked": "source_never_asked+keeps_all",
        "source_follows": "source_moves",
        "majority_needed": "asks_for_many",
        "more_than_one_needed": "kept_but_idle",
        "zeroes_the_dropped": "masks_logits",
        "inverts_through_numpy": "reversed",
    },
    "effective_classes": {
        "nan_for_missing": "nan",
        "no_exp": "no_exponential",
        "no_minus": "sign",
        "log2_exp": "base_2",
        "counts_distinct": "different_classes",
        "counts_not_shares": "counts",
        "divides_by_classes": "divided_by_classes",
        "simpson": "inverse_simpson",
        "softmax_of_counts": "softmax",
        "mean_not_sum": "mean_over_classes",
        "rounded": "rounded",
        "share_of_classes": "normalised",
        "large_epsilon": "large_epsilon",
        "sorts_in_place": "changes_input",
        "no_sum": "not_one_number",
    },
    "answer_with_resets": {
        "never_forgets": "keeps_old",
        "forgets_the_answers": "lost_answers",
        "less_or_equal": "at_most",
        "more_than_window": "more_than_window",
        "exactly_window": "only_when_equal",
        "does_not_wait": "too_early",
        "looks_at_all": "whole_past",
        "looks_at_the_first": "first_window",
        "looks_at_the_batch": "last_batch",
        "window_in_batches": "window_of_batches+counts_batches",
        "wrong_direction": "reversed",
        "never_resets": "never",
        "reset_not_called": "reset_without_brackets",
        "resets_always": "always+too_early",
        "looks_before_remembering": "keeps_last_batch+one_late",
        "looks_before_predicting": "resets_first",
        "predicts_again": "asks_again",
        "calls_twice": "asks_twice",
        "looks_after_every_image": "per_image",
        "returns_a_list": "not_joined",
        "returns_logits": "returns_logits",
        "argmax_over_images": "argmax_axis",
        "returns_recent": "lost_answers",
        "stops_at_the_reset": "stops_early",
        "resets_once": "only_once",
        "tumbling_window": "tumbling",
        "window_too_short": "window_off_by_one",
        "distinct_classes": "different_classes",
        "mutable_default": "remembers_calls",
        "keeps_the_last_batch": "keeps_last_batch",
    },
    "vote": {
        "mode_over_images": "wrong_axis",
        "percent": "percent",
        "counts": "counts",
        "disagreement": "disagreement",
        "first_method": "first_candidate",
        "pairwise": "pairs",
        "median": "median_class",
        "rounded_mean": "mean_class",
        "mode_indices": "mode_indices",
        "without_itself": "without_self",
        "unanimous": "unanimous",
        "one_class_for_all": "commonest_overall",
        "list_of_shares": "not_a_dict",
        "best_name": "only_best",
        "sorted_pairs": "not_a_dict",
        "rounded_share": "rounded",
        "sums_to_one": "adds_to_one",
        "absolute_majority": "shared_majority",
        "in_place": "changes_input",
        "one_number": "not_a_dict",
    },
}


def answers_of(number: int):
    spec = importlib.util.spec_from_file_location(f"workshop_answers_{number}", FOLDER / f"module_{number}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.ANSWERS


ANSWERS = {number: answers_of(number) for number in (1, 2, 3)}
WRONG = [(number, i) for number, table in ANSWERS.items() for i, (_, cause, _) in enumerate(table) if cause]
RIGHT = [(number, i) for number, table in ANSWERS.items() for i, (_, cause, _) in enumerate(table) if not cause]


@cache
def verdict_on(number: int, i: int):
    exercise, _, function = ANSWERS[number][i]
    return judge(exercise, function)


def ids(cases):
    return ["{0}-{2.__name__}".format(*ANSWERS[number][i]) for number, i in cases]


def test_each_wrong_answer_has_a_cause_and_each_module_has_enough():
    for number, exercises in zip(ANSWERS, MODULES.values(), strict=True):
        table = ANSWERS[number]
        assert {exercise for exercise, _, _ in table} == set(exercises)
        assert sum(cause is not None for _, cause, _ in table) >= 40 and sum(cause is None for _, cause, _ in table) >= 12
        for exercise in exercises:
            assert {f.__name__ for name, cause, f in table if name == exercise and cause} == set(CAUSES[exercise])
    assert not {mistake for table in CAUSES.values() for mistake in table.values()} & GENERIC


@pytest.mark.parametrize("number, i", WRONG, ids=ids(WRONG))
def test_wrong_answers_are_refused_and_never_named_wrongly(number, i):
    (exercise, cause, function), verdict = ANSWERS[number][i], verdict_on(number, i)
    assert not verdict.ok and verdict.message and verdict.hint
    assert verdict.mistake in GENERIC | {CAUSES[exercise][function.__name__]}, (cause, verdict)


@pytest.mark.parametrize("number, i", RIGHT, ids=ids(RIGHT))
def test_right_answers_are_accepted(number, i):
    assert verdict_on(number, i).ok, verdict_on(number, i)


@pytest.mark.parametrize("number", ANSWERS)
def test_nearly_all_causes_are_named(number):
    wrong = [(i, ANSWERS[number][i]) for n, i in WRONG if n == number]
    missed = [f.__name__ for i, (exercise, _, f) in wrong if verdict_on(number, i).mistake != CAUSES[exercise][f.__name__]]
    assert 1 - len(missed) / len(wrong) >= NAMED_AT_LEAST, missed
