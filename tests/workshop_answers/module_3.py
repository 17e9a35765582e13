"""What students write in workshop 3, right and wrong, each with its true cause; written from the text of the notebook, without the checks."""
# ruff: noqa: B018, B905, F841
import math
from collections import Counter, deque

import numpy as np
import torch
import torch.nn.functional as F

ANSWERS = []                                             # (exercise, cause or None where right, function)


def answer(exercise: str, cause: str | None = None):
    def add(function):
        ANSWERS.append((exercise, cause, function))
        return function
    return add


# ---- effective_classes: right ---------------------------------------------------------------------------------------
@answer("effective_classes")
def effective_classes(predictions, n_classes):
    share = torch.bincount(predictions, minlength=n_classes) / len(predictions)
    share = share[share > 0]
    return float((-(share * share.log()).sum()).exp())


@answer("effective_classes")
def classes_counter(predictions, n_classes):
    H = 0.0
    for n in Counter(predictions.tolist()).values():
        s = n / len(predictions)
        H -= s * math.log(s)
    return math.exp(H)


@answer("effective_classes")
def classes_product(predictions, n_classes):
    s = torch.bincount(predictions, minlength=n_classes).double() / predictions.numel()
    return torch.prod(s ** -s)


@answer("effective_classes")
def classes_nan_to_num(predictions, n_classes):
    s = F.one_hot(predictions, n_classes).float().mean(0)
    return torch.exp(-(s * torch.log(s)).nan_to_num().sum()).item()


@answer("effective_classes")
def classes_numpy(predictions, n_classes):
    _, counts = np.unique(predictions.numpy(), return_counts=True)
    s = counts / counts.sum()
    return np.exp(-(s * np.log(s)).sum())


@answer("effective_classes")
def classes_categorical(predictions, n_classes):
    counts = torch.bincount(predictions, minlength=n_classes)
    return torch.distributions.Categorical(probs=counts / counts.sum()).entropy().exp()


@answer("effective_classes")
def classes_entr_no_minlength(predictions, n_classes):
    s = torch.bincount(predictions) / len(predictions)
    return torch.special.entr(s).sum().exp()


# ---- effective_classes: wrong ---------------------------------------------------------------------------------------
@answer("effective_classes", "0 ln 0: NaN when a class is missing")
def nan_for_missing(predictions, n_classes):
    s = torch.bincount(predictions, minlength=n_classes) / len(predictions)
    return float((-(s * s.log()).sum()).exp())


@answer("effective_classes", "exp forgotten: the entropy")
def no_exp(predictions, n_classes):
    s = torch.bincount(predictions, minlength=n_classes) / len(predictions)
    s = s[s > 0]
    return float(-(s * s.log()).sum())


@answer("effective_classes", "minus forgotten: 1 over the right number")
def no_minus(predictions, n_classes):
    s = torch.bincount(predictions, minlength=n_classes) / len(predictions)
    s = s[s > 0]
    return float((s * s.log()).sum().exp())


@answer("effective_classes", "logarithm to base 2, but exp to base e")
def log2_exp(predictions, n_classes):
    s = torch.bincount(predictions, minlength=n_classes) / len(predictions)
    s = s[s > 0]
    return float((-(s * s.log2()).sum()).exp())


@answer("effective_classes", "counts the classes that appear at all")
def counts_distinct(predictions, n_classes):
    return float(len(predictions.unique()))


@answer("effective_classes", "counts instead of shares: not divided by the number of predictions")
def counts_not_shares(predictions, n_classes):
    n = torch.bincount(predictions, minlength=n_classes).float()
    n = n[n > 0]
    return float((-(n * n.log()).sum()).exp())


@answer("effective_classes", "divides by the number of classes instead of the number of predictions")
def divides_by_classes(predictions, n_classes):
    s = torch.bincount(predictions, minlength=n_classes) / n_classes
    s = s[s > 0]
    return float((-(s * s.log()).sum()).exp())


@answer("effective_classes", "one over the sum of squared shares (Simpson), not exp of the entropy")
def simpson(predictions, n_classes):
    s = torch.bincount(predictions, minlength=n_classes) / len(predictions)
    return float(1 / (s ** 2).sum())


@answer("effective_classes", "softmax of the counts instead of the shares")
def softmax_of_counts(predictions, n_classes):
    s = torch.bincount(predictions, minlength=n_classes).float().softmax(0)
    return float(torch.special.entr(s).sum().exp())


@answer("effective_classes", "mean over the classes instead of the sum")
def mean_not_sum(predictions, n_classes):
    s = torch.bincount(predictions, minlength=n_classes) / len(predictions)
    s = s[s > 0]
    return float((-(s * s.log()).mean()).exp())


@answer("effective_classes", "rounded to a whole number")
def rounded(predictions, n_classes):
    return round(effective_classes(predictions, n_classes))


@answer("effective_classes", "the share of the classes in use: divided by n_classes")
def share_of_classes(predictions, n_classes):
    return effective_classes(predictions, n_classes) / n_classes


@answer("effective_classes", "an epsilon so large that missing classes count")
def large_epsilon(predictions, n_classes):
    s = torch.bincount(predictions, minlength=n_classes) / len(predictions) + 0.01
    return float((-(s * s.log()).sum()).exp())


@answer("effective_classes", "changes the predictions that it was given")
def sorts_in_place(predictions, n_classes):
    predictions.copy_(predictions.sort().values)
    return effective_classes(predictions, n_classes)


@answer("effective_classes", "returns one number per class: the sum is missing")
def no_sum(predictions, n_classes):
    s = torch.bincount(predictions, minlength=n_classes) / len(predictions)
    s = s[s > 0]
    return (-(s * s.log())).exp()


# ---- answer_with_resets: right --------------------------------------------------------------------------------------
@answer("answer_with_resets")
def answer_with_resets(model, batches, least, window):
    answers, recent = [], torch.zeros(0, dtype=torch.long)
    for images in batches:
        logits = model(images)
        answers.append(logits.argmax(1))
        recent = torch.cat([recent, answers[-1].cpu()])
        if len(recent) >= window and effective_classes(recent[-window:], logits.shape[1]) < least:
            model.reset()
            recent = recent[:0]
    return torch.cat(answers)


@answer("answer_with_resets")
def resets_two_lists(model, batches, least, window):
    said, recent = [], []
    for x in batches:
        out = model(x)
        c = out.argmax(dim=1)
        said.append(c)
        recent.append(c)
        last = torch.cat(recent)
        if last.numel() < window:
            continue
        if effective_classes(last[-window:], out.shape[1]) < least:
            model.reset()
            recent = []
    return torch.cat(said)


@answer("answer_with_resets")
def resets_deque(model, batches, least, window):
    answers, recent = [], deque(maxlen=window)
    for x in batches:
        classes = model(x).max(1).indices.tolist()
        answers += classes
        recent.extend(classes)
        if len(recent) == window and classes_counter(torch.tensor(list(recent)), 10) < least:
            model.reset()
            recent.clear()
    return torch.tensor(answers)


@answer("answer_with_resets")
def resets_start_index(model, batches, least, window):
    answers, start = torch.empty(0, dtype=torch.int64), 0
    for images in batches:
        logits = model(images).detach()
        answers = torch.cat((answers, torch.argmax(logits, -1)))
        since = answers[start:]
        if since.shape[0] >= window:
            in_use = classes_entr_no_minlength(since[-window:], logits.size(1))
            if in_use < least:
                model.reset()
                start = len(answers)
    return answers


@answer("answer_with_resets")
def resets_enumerate_probabilities(model, batches, least, window):
    answers, recent = [], []
    for i, images in enumerate(batches):
        p = model(images).softmax(1)
        answers.append(p.argmax(1))
        recent.extend(answers[i].tolist())
        full = len(recent) >= window
        if full:
            shares = np.bincount(recent[len(recent) - window:], minlength=p.shape[1]) / window
            shares = shares[shares > 0]
            if np.exp(-np.sum(shares * np.log(shares))) < least:
                model.reset()
                recent[:] = []
    return torch.hstack(answers)


# ---- answer_with_resets: wrong --------------------------------------------------------------------------------------
@answer("answer_with_resets", "the remembered predictions are not forgotten at a reset")
def never_forgets(model, batches, least, window):
    answers = []
    for images in batches:
        logits = model(images)
        answers.append(logits.argmax(1))
        said = torch.cat(answers)
        if len(said) >= window and effective_classes(said[-window:], logits.shape[1]) < least:
            model.reset()
    return torch.cat(answers)


@answer("answer_with_resets", "the result is emptied together with the memory: answers are lost")
def forgets_the_answers(model, batches, least, window):
    answers = []
    for images in batches:
        logits = model(images)
        answers.append(logits.argmax(1))
        said = torch.cat(answers)
        if len(said) >= window and effective_classes(said[-window:], logits.shape[1]) < least:
            model.reset()
            answers = []
    return torch.cat(answers) if answers else torch.zeros(0, dtype=torch.long)


@answer("answer_with_resets", "<= instead of <: exactly `least` classes also reset")
def less_or_equal(model, batches, least, window):
    answers, recent = [], torch.zeros(0, dtype=torch.long)
    for images in batches:
        logits = model(images)
        answers.append(logits.argmax(1))
        recent = torch.cat([recent, answers[-1]])
        if len(recent) >= window and effective_classes(recent[-window:], logits.shape[1]) <= least:
            model.reset()
            recent = recent[:0]
    return torch.cat(answers)


@answer("answer_with_resets", "> window instead of >=: a window that is just full is not looked at")
def more_than_window(model, batches, least, window):
    answers, recent = [], torch.zeros(0, dtype=torch.long)
    for images in batches:
        logits = model(images)
        answers.append(logits.argmax(1))
        recent = torch.cat([recent, answers[-1]])
        if len(recent) > window and effective_classes(recent[-window:], logits.shape[1]) < least:
            model.reset()
            recent = recent[:0]
    return torch.cat(answers)


@answer("answer_with_resets", "== window: looks only when the window is filled exactly")
def exactly_window(model, batches, least, window):
    answers, recent = [], torch.zeros(0, dtype=torch.long)
    for images in batches:
        logits = model(images)
        answers.append(logits.argmax(1))
        recent = torch.cat([recent, answers[-1]])
        if len(recent) == window and effective_classes(recent, logits.shape[1]) < least:
            model.reset()
            recent = recent[:0]
    return torch.cat(answers)


@answer("answer_with_resets", "does not wait until the window is full")
def does_not_wait(model, batches, least, window):
    answers, recent = [], torch.zeros(0, dtype=torch.long)
    for images in batches:
        logits = model(images)
        answers.append(logits.argmax(1))
        recent = torch.cat([recent, answers[-1]])
        if effective_classes(recent[-window:], logits.shape[1]) < least:
            model.reset()
            recent = recent[:0]
    return torch.cat(answers)


@answer("answer_with_resets", "looks at all remembered predictions instead of the last `window`")
def looks_at_all(model, batches, least, window):
    answers, recent = [], torch.zeros(0, dtype=torch.long)
    for images in batches:
        logits = model(images)
        answers.append(logits.argmax(1))
        recent = torch.cat([recent, answers[-1]])
        if len(recent) >= window and effective_classes(recent, logits.shape[1]) < least:
            model.reset()
            recent = recent[:0]
    return torch.cat(answers)


@answer("answer_with_resets", "looks at the first `window` predictions instead of the last")
def looks_at_the_first(model, batches, least, window):
    answers, recent = [], torch.zeros(0, dtype=torch.long)
    for images in batches:
        logits = model(images)
        answers.append(logits.argmax(1))
        recent = torch.cat([recent, answers[-1]])
        if len(recent) >= window and effective_classes(recent[:window], logits.shape[1]) < least:
            model.reset()
            recent = recent[:0]
    return torch.cat(answers)


@answer("answer_with_resets", "looks at the current batch only")
def looks_at_the_batch(model, batches, least, window):
    answers, n = [], 0
    for images in batches:
        logits = model(images)
        answers.append(logits.argmax(1))
        n += len(images)
        if n >= window and effective_classes(answers[-1], logits.shape[1]) < least:
            model.reset()
            n = 0
    return torch.cat(answers)


@answer("answer_with_resets", "the window counts batches instead of predictions")
def window_in_batches(model, batches, least, window):
    answers, recent = [], []
    for images in batches:
        logits = model(images)
        answers.append(logits.argmax(1))
        recent.append(answers[-1])
        if len(recent) >= window and effective_classes(torch.cat(recent[-window:]), logits.shape[1]) < least:
            model.reset()
            recent = []
    return torch.cat(answers)


@answer("answer_with_resets", "the wrong sign: resets when there are more classes than `least`")
def wrong_direction(model, batches, least, window):
    answers, recent = [], torch.zeros(0, dtype=torch.long)
    for images in batches:
        logits = model(images)
        answers.append(logits.argmax(1))
        recent = torch.cat([recent, answers[-1]])
        if len(recent) >= window and effective_classes(recent[-window:], logits.shape[1]) > least:
            model.reset()
            recent = recent[:0]
    return torch.cat(answers)


@answer("answer_with_resets", "never resets")
def never_resets(model, batches, least, window):
    return torch.cat([model(images).argmax(1) for images in batches])


@answer("answer_with_resets", "reset without parentheses: it is never called")
def reset_not_called(model, batches, least, window):
    answers, recent = [], torch.zeros(0, dtype=torch.long)
    for images in batches:
        logits = model(images)
        answers.append(logits.argmax(1))
        recent = torch.cat([recent, answers[-1]])
        if len(recent) >= window and effective_classes(recent[-window:], logits.shape[1]) < least:
            model.reset
            recent = recent[:0]
    return torch.cat(answers)


@answer("answer_with_resets", "resets after every batch")
def resets_always(model, batches, least, window):
    answers = []
    for images in batches:
        answers.append(model(images).argmax(1))
        model.reset()
    return torch.cat(answers)


@answer("answer_with_resets", "looks before the new predictions are remembered: a batch too late")
def looks_before_remembering(model, batches, least, window):
    answers, recent = [], torch.zeros(0, dtype=torch.long)
    for images in batches:
        logits = model(images)
        if len(recent) >= window and effective_classes(recent[-window:], logits.shape[1]) < least:
            model.reset()
            recent = recent[:0]
        answers.append(logits.argmax(1))
        recent = torch.cat([recent, answers[-1]])
    return torch.cat(answers)


@answer("answer_with_resets", "looks before predicting: the reset comes only with the next batch, never after the last")
def looks_before_predicting(model, batches, least, window):
    answers, recent, n_classes = [], torch.zeros(0, dtype=torch.long), 10
    for images in batches:
        if len(recent) >= window and effective_classes(recent[-window:], n_classes) < least:
            model.reset()
            recent = recent[:0]
        logits = model(images)
        answers.append(logits.argmax(1))
        recent = torch.cat([recent, answers[-1]])
    return torch.cat(answers)


@answer("answer_with_resets", "predicts the batch again after the reset and changes an answer that was given")
def predicts_again(model, batches, least, window):
    answers, recent = [], torch.zeros(0, dtype=torch.long)
    for images in batches:
        logits = model(images)
        said = logits.argmax(1)
        recent = torch.cat([recent, said])
        if len(recent) >= window and effective_classes(recent[-window:], logits.shape[1]) < least:
            model.reset()
            recent = recent[:0]
            said = model(images).argmax(1)
        answers.append(said)
    return torch.cat(answers)


@answer("answer_with_resets", "calls the model twice on each batch: it learns twice")
def calls_twice(model, batches, least, window):
    answers, recent = [], torch.zeros(0, dtype=torch.long)
    for images in batches:
        answers.append(model(images).argmax(1))
        recent = torch.cat([recent, answers[-1]])
        if len(recent) >= window and effective_classes(recent[-window:], model(images).shape[1]) < least:
            model.reset()
            recent = recent[:0]
    return torch.cat(answers)


@answer("answer_with_resets", "looks after every image instead of once per batch")
def looks_after_every_image(model, batches, least, window):
    answers, recent = [], []
    for images in batches:
        logits = model(images)
        answers.append(logits.argmax(1))
        for c in answers[-1].tolist():
            recent.append(c)
            if len(recent) >= window and effective_classes(torch.tensor(recent[-window:]), logits.shape[1]) < least:
                model.reset()
                recent = []
    return torch.cat(answers)


@answer("answer_with_resets", "returns a list of tensors instead of one tensor")
def returns_a_list(model, batches, least, window):
    answers, recent = [], torch.zeros(0, dtype=torch.long)
    for images in batches:
        logits = model(images)
        answers.append(logits.argmax(1))
        recent = torch.cat([recent, answers[-1]])
        if len(recent) >= window and effective_classes(recent[-window:], logits.shape[1]) < least:
            model.reset()
            recent = recent[:0]
    return answers


@answer("answer_with_resets", "returns logits instead of classes")
def returns_logits(model, batches, least, window):
    answers, recent = [], torch.zeros(0, dtype=torch.long)
    for images in batches:
        logits = model(images)
        answers.append(logits)
        recent = torch.cat([recent, logits.argmax(1)])
        if len(recent) >= window and effective_classes(recent[-window:], logits.shape[1]) < least:
            model.reset()
            recent = recent[:0]
    return torch.cat(answers)


@answer("answer_with_resets", "argmax over the images instead of the classes")
def argmax_over_images(model, batches, least, window):
    answers, recent = [], torch.zeros(0, dtype=torch.long)
    for images in batches:
        logits = model(images)
        answers.append(logits.argmax(0))
        recent = torch.cat([recent, answers[-1]])
        if len(recent) >= window and effective_classes(recent[-window:], len(images)) < least:
            model.reset()
            recent = recent[:0]
    return torch.cat(answers)


@answer("answer_with_resets", "returns the remembered predictions, only those since the last reset")
def returns_recent(model, batches, least, window):
    recent = torch.zeros(0, dtype=torch.long)
    for images in batches:
        logits = model(images)
        recent = torch.cat([recent, logits.argmax(1)])
        if len(recent) >= window and effective_classes(recent[-window:], logits.shape[1]) < least:
            model.reset()
            recent = recent[:0]
    return recent


@answer("answer_with_resets", "stops at the first reset: the rest of the stream is not answered")
def stops_at_the_reset(model, batches, least, window):
    answers, recent = [], torch.zeros(0, dtype=torch.long)
    for images in batches:
        logits = model(images)
        answers.append(logits.argmax(1))
        recent = torch.cat([recent, answers[-1]])
        if len(recent) >= window and effective_classes(recent[-window:], logits.shape[1]) < least:
            model.reset()
            break
    return torch.cat(answers)


@answer("answer_with_resets", "resets only once")
def resets_once(model, batches, least, window):
    answers, recent, done = [], torch.zeros(0, dtype=torch.long), False
    for images in batches:
        logits = model(images)
        answers.append(logits.argmax(1))
        recent = torch.cat([recent, answers[-1]])
        if not done and len(recent) >= window and effective_classes(recent[-window:], logits.shape[1]) < least:
            model.reset()
            recent, done = recent[:0], True
    return torch.cat(answers)


@answer("answer_with_resets", "looks only once per full window and empties it then, healthy or not")
def tumbling_window(model, batches, least, window):
    answers, recent = [], torch.zeros(0, dtype=torch.long)
    for images in batches:
        logits = model(images)
        answers.append(logits.argmax(1))
        recent = torch.cat([recent, answers[-1]])
        if len(recent) >= window:
            if effective_classes(recent[-window:], logits.shape[1]) < least:
                model.reset()
            recent = recent[:0]
    return torch.cat(answers)


@answer("answer_with_resets", "off by one: looks at window - 1 predictions")
def window_too_short(model, batches, least, window):
    answers, recent = [], torch.zeros(0, dtype=torch.long)
    for images in batches:
        logits = model(images)
        answers.append(logits.argmax(1))
        recent = torch.cat([recent, answers[-1]])
        if len(recent) >= window and effective_classes(recent[-window + 1:], logits.shape[1]) < least:
            model.reset()
            recent = recent[:0]
    return torch.cat(answers)


@answer("answer_with_resets", "counts the classes that appear at all instead of the effective number")
def distinct_classes(model, batches, least, window):
    answers, recent = [], torch.zeros(0, dtype=torch.long)
    for images in batches:
        logits = model(images)
        answers.append(logits.argmax(1))
        recent = torch.cat([recent, answers[-1]])
        if len(recent) >= window and len(recent[-window:].unique()) < least:
            model.reset()
            recent = recent[:0]
    return torch.cat(answers)


_memory = []


@answer("answer_with_resets", "the memory lives on between calls: a list as default value")
def mutable_default(model, batches, least, window, recent=_memory):
    answers = []
    for images in batches:
        logits = model(images)
        answers.append(logits.argmax(1))
        recent.extend(answers[-1].tolist())
        if len(recent) >= window and effective_classes(torch.tensor(recent[-window:]), logits.shape[1]) < least:
            model.reset()
            recent.clear()
    return torch.cat(answers)


@answer("answer_with_resets", "after a reset the predictions of the last batch are still remembered")
def keeps_the_last_batch(model, batches, least, window):
    answers, recent = [], []
    for images in batches:
        logits = model(images)
        answers.append(logits.argmax(1))
        recent.append(answers[-1])
        said = torch.cat(recent)
        if len(said) >= window and effective_classes(said[-window:], logits.shape[1]) < least:
            model.reset()
            recent = [answers[-1]]
    return torch.cat(answers)


# ---- vote: right ----------------------------------------------------------------------------------------------------
@answer("vote")
def vote(predictions):
    winner = torch.stack(list(predictions.values())).mode(0).values
    return {name: float((said == winner).float().mean()) for name, said in predictions.items()}


@answer("vote")
def vote_counter(predictions):
    names = list(predictions)
    hits = dict.fromkeys(names, 0)
    n = len(predictions[names[0]])
    for i in range(n):
        winner = Counter(int(predictions[name][i]) for name in names).most_common(1)[0][0]
        for name in names:
            hits[name] += int(predictions[name][i]) == winner
    return {name: hits[name] / n for name in names}


@answer("vote")
def vote_one_hot(predictions):
    table = torch.stack([p.long() for p in predictions.values()], dim=1)
    winner = F.one_hot(table).sum(1).argmax(1)
    return dict(zip(predictions, (table == winner[:, None]).double().mean(0).tolist()))


@answer("vote")
def vote_tensors(predictions):
    winner, _ = torch.mode(torch.vstack(tuple(predictions.values())), dim=0)
    result = {}
    for k in predictions:
        result[k] = (predictions[k] == winner).float().mean()
    return result


@answer("vote")
def vote_numpy(predictions):
    table = np.stack([p.numpy() for p in predictions.values()])
    winner = np.array([np.bincount(column).argmax() for column in table.T])
    return {name: np.mean(row == winner) for name, row in zip(predictions, table)}


# ---- vote: wrong ----------------------------------------------------------------------------------------------------
@answer("vote", "mode over the images instead of the methods")
def mode_over_images(predictions):
    winner = torch.stack(list(predictions.values())).mode(1).values
    return {name: float((said == w).float().mean()) for (name, said), w in zip(predictions.items(), winner)}


@answer("vote", "percent instead of a share")
def percent(predictions):
    return {name: 100 * share for name, share in vote(predictions).items()}


@answer("vote", "the number of images instead of the share")
def counts(predictions):
    winner = torch.stack(list(predictions.values())).mode(0).values
    return {name: int((said == winner).sum()) for name, said in predictions.items()}


@answer("vote", "the share of images on which a method disagrees")
def disagreement(predictions):
    return {name: 1 - share for name, share in vote(predictions).items()}


@answer("vote", "compares with the first method instead of the vote")
def first_method(predictions):
    first = next(iter(predictions.values()))
    return {name: float((said == first).float().mean()) for name, said in predictions.items()}


@answer("vote", "mean agreement with each of the others instead of agreement with the vote")
def pairwise(predictions):
    return {a: sum(float((x == y).float().mean()) for b, y in predictions.items() if b != a) / (len(predictions) - 1)
            for a, x in predictions.items()}


@answer("vote", "the median class instead of the most frequent one")
def median(predictions):
    winner = torch.stack(list(predictions.values())).median(0).values
    return {name: float((said == winner).float().mean()) for name, said in predictions.items()}


@answer("vote", "the rounded mean of the class numbers instead of the most frequent one")
def rounded_mean(predictions):
    winner = torch.stack(list(predictions.values())).float().mean(0).round()
    return {name: float((said == winner).float().mean()) for name, said in predictions.items()}


@answer("vote", "takes mode's indices instead of its values")
def mode_indices(predictions):
    winner = torch.stack(list(predictions.values())).mode(0).indices
    return {name: float((said == winner).float().mean()) for name, said in predictions.items()}


@answer("vote", "each method is compared with the vote of the others, without its own")
def without_itself(predictions):
    out = {}
    for name, said in predictions.items():
        others = torch.stack([p for other, p in predictions.items() if other != name])
        out[name] = float((said == others.mode(0).values).float().mean())
    return out


@answer("vote", "only the images on which all agree count")
def unanimous(predictions):
    table = torch.stack(list(predictions.values()))
    same = (table == table[0]).all(0)
    return {name: float(same.float().mean()) for name in predictions}


@answer("vote", "one class for all images: the most frequent one of the whole table")
def one_class_for_all(predictions):
    winner = torch.cat(list(predictions.values())).mode().values
    return {name: float((said == winner).float().mean()) for name, said in predictions.items()}


@answer("vote", "returns a list of shares without names")
def list_of_shares(predictions):
    return list(vote(predictions).values())


@answer("vote", "returns the name of the best method instead of all shares")
def best_name(predictions):
    shares = vote(predictions)
    return max(shares, key=shares.get)


@answer("vote", "returns a sorted list of pairs instead of a dict")
def sorted_pairs(predictions):
    return sorted(vote(predictions).items(), key=lambda item: -item[1])


@answer("vote", "rounded to one digit")
def rounded_share(predictions):
    return {name: round(share, 1) for name, share in vote(predictions).items()}


@answer("vote", "the shares are divided by their sum")
def sums_to_one(predictions):
    shares = vote(predictions)
    total = sum(shares.values())
    return {name: share / total for name, share in shares.items()}


@answer("vote", "a winner needs more than half of the votes")
def absolute_majority(predictions):
    table = torch.stack(list(predictions.values()))
    winner = table.mode(0).values
    winner = torch.where((table == winner).sum(0) > len(table) / 2, winner, -1)
    return {name: float((said == winner).float().mean()) for name, said in predictions.items()}


@answer("vote", "changes the predictions that it was given")
def in_place(predictions):
    winner = torch.stack(list(predictions.values())).mode(0).values
    return {name: float(said.eq_(winner).float().mean()) for name, said in predictions.items()}


@answer("vote", "one number for all methods together")
def one_number(predictions):
    winner = torch.stack(list(predictions.values())).mode(0).values
    return float((torch.stack(list(predictions.values())) == winner).float().mean())
