"""What students write in workshop 2, right and wrong, each with its true cause; written from the text of the notebook, without the checks."""
# ruff: noqa: B018, B905, F841
import numpy as np
import torch
import torch.nn.functional as F

ANSWERS = []                                             # (exercise, cause or None where right, function)


def answer(exercise: str, cause: str | None = None):
    def add(function):
        ANSWERS.append((exercise, cause, function))
        return function
    return add


def entropy(logits):
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


# ---- crowd_filter: right --------------------------------------------------------------------------------------------
@answer("crowd_filter")
def crowd_filter(adapted_logits, source_logits):
    before, c = source_logits.softmax(1).max(1)
    now = adapted_logits.softmax(1).gather(1, c[:, None])[:, 0]
    return now >= before


@answer("crowd_filter")
def filter_indexing(adapted_logits, source_logits):
    c = source_logits.argmax(dim=1)
    rows = torch.arange(len(c))
    d = F.softmax(adapted_logits, dim=1)[rows, c] - F.softmax(source_logits, dim=1)[rows, c]
    return ~(d < 0)


@answer("crowd_filter")
def filter_loop(adapted, original):
    keep = []
    for a, s in zip(adapted, original):
        c = int(torch.argmax(s))
        keep.append(bool(a.softmax(0)[c] - s.softmax(0)[c] >= 0))
    return torch.tensor(keep)


@answer("crowd_filter")
def filter_one_hot_float64(adapted_logits, source_logits):
    pa, ps = adapted_logits.double().softmax(-1), source_logits.double().softmax(-1)
    chosen = F.one_hot(ps.argmax(-1), ps.shape[-1]).double()
    return torch.einsum("bk,bk->b", pa - ps, chosen) >= 0


@answer("crowd_filter")
def filter_log_probabilities(adapted_logits, source_logits):
    a, s = adapted_logits.log_softmax(1), source_logits.log_softmax(1)
    c = s.argmax(1, keepdim=True)
    return torch.ge(a.gather(1, c), s.gather(1, c)).squeeze(1)


@answer("crowd_filter")
def filter_cross_entropy(adapted_logits, source_logits):
    c = source_logits.argmax(1)
    return F.cross_entropy(adapted_logits, c, reduction="none") <= F.cross_entropy(source_logits, c, reduction="none")


@answer("crowd_filter")
def filter_preallocated(adapted_logits, source_logits):
    keep = torch.zeros(len(source_logits), dtype=torch.bool)
    pa, ps = torch.softmax(adapted_logits, 1), torch.softmax(source_logits, 1)
    for i in range(len(keep)):
        c = ps[i].topk(1).indices[0]
        keep[i] = pa[i, c] >= ps[i, c]
    return keep


@answer("crowd_filter")
def filter_diagonal(adapted_logits, source_logits):
    with torch.no_grad():
        c = source_logits.max(1).indices
        d = (adapted_logits.softmax(1) - source_logits.softmax(1))[:, c].diag()
        return torch.where(d >= 0, True, False)


# ---- crowd_filter: wrong --------------------------------------------------------------------------------------------
@answer("crowd_filter", "class of the adapted model instead of the original one")
def class_of_the_adapted(adapted_logits, source_logits):
    pa, ps = adapted_logits.softmax(1), source_logits.softmax(1)
    c = pa.argmax(1, keepdim=True)
    return (pa.gather(1, c) - ps.gather(1, c)).squeeze(1) >= 0


@answer("crowd_filter", "compares the largest probability of each model, not the same class")
def largest_of_each(adapted_logits, source_logits):
    return adapted_logits.softmax(1).max(1).values >= source_logits.softmax(1).max(1).values


@answer("crowd_filter", "> instead of >=: unchanged images are dropped")
def strictly_greater(adapted_logits, source_logits):
    before, c = source_logits.softmax(1).max(1)
    return adapted_logits.softmax(1).gather(1, c[:, None])[:, 0] > before


@answer("crowd_filter", "the wrong sign: keeps those that fall")
def keeps_the_falling(adapted_logits, source_logits):
    before, c = source_logits.softmax(1).max(1)
    return before - adapted_logits.softmax(1).gather(1, c[:, None])[:, 0] >= 0


@answer("crowd_filter", "strictly the wrong sign: keeps only those that fall")
def keeps_only_the_falling(adapted_logits, source_logits):
    before, c = source_logits.softmax(1).max(1)
    return adapted_logits.softmax(1).gather(1, c[:, None])[:, 0] < before


@answer("crowd_filter", "compares logits instead of probabilities")
def compares_logits(adapted_logits, source_logits):
    before, c = source_logits.max(1)
    return adapted_logits.gather(1, c[:, None])[:, 0] >= before


@answer("crowd_filter", "softmax over the images instead of the classes")
def softmax_over_images(adapted_logits, source_logits):
    c = source_logits.argmax(1, keepdim=True)
    d = adapted_logits.softmax(0).gather(1, c) - source_logits.softmax(0).gather(1, c)
    return d[:, 0] >= 0


@answer("crowd_filter", "argmax over the images instead of the classes")
def argmax_over_images(adapted_logits, source_logits):
    pa, ps = adapted_logits.softmax(1), source_logits.softmax(1)
    c = ps.argmax(0)
    return pa[c, torch.arange(len(c))] >= ps[c, torch.arange(len(c))]


@answer("crowd_filter", "returns d itself instead of a decision")
def returns_the_difference(adapted_logits, source_logits):
    before, c = source_logits.softmax(1).max(1)
    return adapted_logits.softmax(1).gather(1, c[:, None])[:, 0] - before


@answer("crowd_filter", "returns numbers 0 and 1 instead of bool")
def returns_floats(adapted_logits, source_logits):
    before, c = source_logits.softmax(1).max(1)
    return (adapted_logits.softmax(1).gather(1, c[:, None])[:, 0] >= before).float()


@answer("crowd_filter", "returns the numbers of the kept images instead of one decision per image")
def returns_indices(adapted_logits, source_logits):
    before, c = source_logits.softmax(1).max(1)
    return torch.nonzero(adapted_logits.softmax(1).gather(1, c[:, None])[:, 0] >= before).squeeze(1)


@answer("crowd_filter", "shape (B, 1) instead of (B,): squeeze forgotten")
def column(adapted_logits, source_logits):
    pa, ps = adapted_logits.softmax(1), source_logits.softmax(1)
    c = ps.argmax(1, keepdim=True)
    return pa.gather(1, c) >= ps.gather(1, c)


@answer("crowd_filter", "(B,) against (B, 1) broadcasts: shape (B, B)")
def broadcasts(adapted_logits, source_logits):
    before, c = source_logits.softmax(1).max(1)
    return adapted_logits.softmax(1).gather(1, c[:, None]) >= before


@answer("crowd_filter", "returns a Python list instead of a tensor")
def returns_a_list(adapted_logits, source_logits):
    before, c = source_logits.softmax(1).max(1)
    return (adapted_logits.softmax(1).gather(1, c[:, None])[:, 0] >= before).tolist()


@answer("crowd_filter", "one decision for the whole batch")
def one_decision(adapted_logits, source_logits):
    before, c = source_logits.softmax(1).max(1)
    return (adapted_logits.softmax(1).gather(1, c[:, None])[:, 0] - before).mean() >= 0


@answer("crowd_filter", "keeps the images on which both models agree about the class")
def same_class(adapted_logits, source_logits):
    return adapted_logits.argmax(1) == source_logits.argmax(1)


@answer("crowd_filter", "compares entropies instead of the probability of one class")
def compares_entropies(adapted_logits, source_logits):
    return entropy(adapted_logits) <= entropy(source_logits)


@answer("crowd_filter", "an absolute threshold on the confidence instead of a comparison with the original")
def threshold(adapted_logits, source_logits):
    return adapted_logits.softmax(1).max(1).values >= 0.5


@answer("crowd_filter", "the two arguments are swapped")
def swapped(adapted_logits, source_logits):
    return crowd_filter(source_logits, adapted_logits)


@answer("crowd_filter", "changes the logits that it was given")
def in_place(adapted_logits, source_logits):
    adapted_logits -= adapted_logits.logsumexp(1, keepdim=True)
    source_logits -= source_logits.logsumexp(1, keepdim=True)
    before, c = source_logits.max(1)
    return adapted_logits.gather(1, c[:, None])[:, 0] >= before


@answer("crowd_filter", "keeps a rise in any class, or the sum over all classes, instead of class c")
def any_class(adapted_logits, source_logits):
    return (adapted_logits.softmax(1) - source_logits.softmax(1) >= 0).any(1)


@answer("crowd_filter", "the absolute difference is never negative: keeps all")
def absolute(adapted_logits, source_logits):
    before, c = source_logits.softmax(1).max(1)
    return (adapted_logits.softmax(1).gather(1, c[:, None])[:, 0] - before).abs() >= 0


@answer("crowd_filter", "compares the adapted probability of c with the adapted probability of its own best class")
def against_itself(adapted_logits, source_logits):
    pa = adapted_logits.softmax(1)
    c = source_logits.argmax(1)
    return pa[torch.arange(len(c)), c] >= pa.max(1).values


# ---- filtered_step: right -------------------------------------------------------------------------------------------
@answer("filtered_step")
def filtered_step(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.any():
        optimizer.zero_grad()
        entropy(logits)[keep].mean().backward()
        optimizer.step()
    return logits.detach()


@answer("filtered_step")
def filtered_early_return(model, source, images, optimizer):
    optimizer.zero_grad()
    out = model(images)
    with torch.inference_mode():
        ref = source(images)
    mask = crowd_filter(out.detach(), ref)
    if not mask.any():
        return out.detach()
    loss = entropy(out[mask]).mean()
    loss.backward()
    optimizer.step()
    return out.detach().clone()


@answer("filtered_step")
def filtered_weights(model, source, images, optimizer):
    logits = model(images)
    original = torch.no_grad()(source)(images)
    weights = crowd_filter(logits, original).float()
    n = weights.sum()
    if n > 0:
        optimizer.zero_grad()
        ((weights * entropy(logits)).sum() / n).backward()
        optimizer.step()
    return logits.data


@answer("filtered_step")
def filtered_index(model, source, images, optimizer):
    with torch.no_grad():
        before = source(images)
    logits = model(images)
    kept = crowd_filter(logits, before).nonzero().flatten()
    if len(kept):
        model.zero_grad()
        H = entropy(logits.index_select(0, kept))
        torch.div(H.sum(), len(kept)).backward()
        optimizer.step()
    return logits.clone().detach()


@answer("filtered_step")
def filtered_loop(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    losses = [h for h, k in zip(entropy(logits), keep) if k]
    if losses:
        loss = torch.stack(losses).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    return logits.detach()


@answer("filtered_step")
def filtered_masked_select(model, source, images, optimizer):
    torch.set_grad_enabled(False)
    original = source(images)
    torch.set_grad_enabled(True)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    optimizer.zero_grad(set_to_none=True)
    if keep.sum().item() != 0:
        torch.masked_select(entropy(logits).double(), keep).mean().backward()
        optimizer.step()
    return logits.detach()


@answer("filtered_step")
def filtered_where(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if torch.count_nonzero(keep) == 0:
        return logits.detach()
    H = torch.where(keep, entropy(logits), torch.zeros(()))
    optimizer.zero_grad()
    torch.einsum("b,b->", H, keep.float() / keep.sum()).backward()
    optimizer.step()
    return logits.detach()


# ---- filtered_step: wrong -------------------------------------------------------------------------------------------
@answer("filtered_step", "learns from all images: the mask is computed and not used")
def learns_from_all(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.any():
        optimizer.zero_grad()
        entropy(logits).mean().backward()
        optimizer.step()
    return logits.detach()


@answer("filtered_step", "learns from the dropped images instead of the kept ones")
def learns_from_the_dropped(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if (~keep).any():
        optimizer.zero_grad()
        entropy(logits)[~keep].mean().backward()
        optimizer.step()
    return logits.detach()


@answer("filtered_step", "sum of the kept entropies instead of the mean")
def sum_of_kept(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.any():
        optimizer.zero_grad()
        entropy(logits)[keep].sum().backward()
        optimizer.step()
    return logits.detach()


@answer("filtered_step", "divides by the number of all images instead of the kept ones")
def divides_by_all(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.any():
        optimizer.zero_grad()
        (entropy(logits) * keep).mean().backward()
        optimizer.step()
    return logits.detach()


@answer("filtered_step", "nobody kept is not asked for: the mean of nothing is NaN, and the weights become NaN")
def no_any(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    optimizer.zero_grad()
    entropy(logits)[keep].mean().backward()
    optimizer.step()
    return logits.detach()


@answer("filtered_step", "clamp(min=1) avoids NaN, but a step with gradient 0 still moves weights by Adam's memory")
def clamp_and_step(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    optimizer.zero_grad()
    ((entropy(logits) * keep).sum() / keep.sum().clamp(min=1)).backward()
    optimizer.step()
    return logits.detach()


@answer("filtered_step", "nan_to_num on the loss, but the step is made although nobody is kept")
def nan_to_num_and_step(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    optimizer.zero_grad()
    entropy(logits)[keep].mean().nan_to_num().backward()
    optimizer.step()
    return logits.detach()


@answer("filtered_step", "only backward stands under the if: the step is made although nobody is kept")
def step_outside_the_if(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.any():
        optimizer.zero_grad()
        entropy(logits)[keep].mean().backward()
    optimizer.step()
    return logits.detach()


@answer("filtered_step", "with nobody kept it learns from all images instead of none")
def falls_back_to_all(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    H = entropy(logits)
    optimizer.zero_grad()
    (H[keep] if keep.any() else H).mean().backward()
    optimizer.step()
    return logits.detach()


@answer("filtered_step", "learns only when all images are kept: all instead of any")
def all_instead_of_any(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.all():
        optimizer.zero_grad()
        entropy(logits)[keep].mean().backward()
        optimizer.step()
    return logits.detach()


@answer("filtered_step", "sends the kept images through the network again: other batch statistics")
def kept_once_more(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.any():
        optimizer.zero_grad()
        entropy(model(images[keep])).mean().backward()
        optimizer.step()
    return logits.detach()


@answer("filtered_step", "the source is asked with recording: its forward is kept for a gradient")
def source_is_recorded(model, source, images, optimizer):
    original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.any():
        optimizer.zero_grad()
        entropy(logits)[keep].mean().backward()
        optimizer.step()
    return logits.detach()


@answer("filtered_step", "the source is asked with recording and only then detached")
def source_detached_afterwards(model, source, images, optimizer):
    original = source(images).detach()
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.any():
        optimizer.zero_grad()
        entropy(logits)[keep].mean().backward()
        optimizer.step()
    return logits.detach()


@answer("filtered_step", "the two arguments of the filter are swapped")
def filter_swapped(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(original, logits.detach())
    if keep.any():
        optimizer.zero_grad()
        entropy(logits)[keep].mean().backward()
        optimizer.step()
    return logits.detach()


@answer("filtered_step", "the two networks are swapped: the loss is taken on the source's logits")
def loss_on_the_source(model, source, images, optimizer):
    original = source(images)
    with torch.no_grad():
        logits = model(images)
    keep = crowd_filter(logits, original.detach())
    if keep.any():
        optimizer.zero_grad()
        entropy(original)[keep].mean().backward()
        optimizer.step()
    return logits


@answer("filtered_step", "answers only the kept images")
def answers_the_kept(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.any():
        optimizer.zero_grad()
        entropy(logits)[keep].mean().backward()
        optimizer.step()
    return logits[keep].detach()


@answer("filtered_step", "the dropped images are answered by the source")
def source_answers_the_dropped(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.any():
        optimizer.zero_grad()
        entropy(logits)[keep].mean().backward()
        optimizer.step()
    return torch.where(keep[:, None], logits.detach(), original)


@answer("filtered_step", "returns the source's logits")
def returns_the_source(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.any():
        optimizer.zero_grad()
        entropy(logits)[keep].mean().backward()
        optimizer.step()
    return original


@answer("filtered_step", "answers with a second forward, from after the step")
def answers_after_the_step(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.any():
        optimizer.zero_grad()
        entropy(logits)[keep].mean().backward()
        optimizer.step()
    with torch.no_grad():
        return model(images)


@answer("filtered_step", "the answer is not detached")
def not_detached(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.any():
        optimizer.zero_grad()
        entropy(logits)[keep].mean().backward()
        optimizer.step()
    return logits


@answer("filtered_step", "not detached where nobody is kept")
def early_return_not_detached(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if not keep.any():
        return logits
    optimizer.zero_grad()
    entropy(logits)[keep].mean().backward()
    optimizer.step()
    return logits.detach()


@answer("filtered_step", "returns nothing where nobody is kept: return stands under the if")
def return_under_the_if(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.any():
        optimizer.zero_grad()
        entropy(logits)[keep].mean().backward()
        optimizer.step()
        return logits.detach()


@answer("filtered_step", "gradients are never cleared, they add up over the batches")
def no_zero_grad(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.any():
        entropy(logits)[keep].mean().backward()
        optimizer.step()
    return logits.detach()


@answer("filtered_step", "puts the source into eval mode")
def source_eval(model, source, images, optimizer):
    source.eval()
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.any():
        optimizer.zero_grad()
        entropy(logits)[keep].mean().backward()
        optimizer.step()
    return logits.detach()


@answer("filtered_step", "puts the adapted network into train mode")
def model_train(model, source, images, optimizer):
    model.train()
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.any():
        optimizer.zero_grad()
        entropy(logits)[keep].mean().backward()
        optimizer.step()
    return logits.detach()


@answer("filtered_step", "both forwards stand under no_grad: nothing to go backward on")
def both_under_no_grad(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
        logits = model(images)
    keep = crowd_filter(logits, original)
    if keep.any():
        optimizer.zero_grad()
        entropy(logits)[keep].mean().backward()
        optimizer.step()
    return logits


@answer("filtered_step", "the filter looks at the network after a first step: two steps on a batch")
def tent_first(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    first = model(images)
    optimizer.zero_grad()
    entropy(first).mean().backward()
    optimizer.step()
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.any():
        optimizer.zero_grad()
        entropy(logits)[keep].mean().backward()
        optimizer.step()
    return first.detach()


@answer("filtered_step", "the adapted network is compared with itself: the source is never asked")
def source_is_not_asked(model, source, images, optimizer):
    logits = model(images)
    with torch.no_grad():
        original = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.any():
        optimizer.zero_grad()
        entropy(logits)[keep].mean().backward()
        optimizer.step()
    return logits.detach()


@answer("filtered_step", "the source follows: it gets the adapted weights after each step")
def source_follows(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.any():
        optimizer.zero_grad()
        entropy(logits)[keep].mean().backward()
        optimizer.step()
        source.load_state_dict(model.state_dict())
    return logits.detach()


@answer("filtered_step", "skips the step when fewer than half are kept")
def majority_needed(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.float().mean() > 0.5:
        optimizer.zero_grad()
        entropy(logits)[keep].mean().backward()
        optimizer.step()
    return logits.detach()


@answer("filtered_step", "off by one: no step when exactly one image is kept")
def more_than_one_needed(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.sum() > 1:
        optimizer.zero_grad()
        entropy(logits)[keep].mean().backward()
        optimizer.step()
    return logits.detach()


@answer("filtered_step", "dropped logits are set to 0 in place of being left out: they count as uniform in the mean")
def zeroes_the_dropped(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    keep = crowd_filter(logits.detach(), original)
    if keep.any():
        optimizer.zero_grad()
        entropy(logits * keep[:, None]).mean().backward()
        optimizer.step()
    return logits.detach()


@answer("filtered_step", "mask from a numpy array: the filter is asked, but compared with the wrong sign")
def inverts_through_numpy(model, source, images, optimizer):
    with torch.no_grad():
        original = source(images)
    logits = model(images)
    dropped = np.asarray(crowd_filter(logits.detach(), original)) == False  # noqa: E712
    if dropped.any():
        optimizer.zero_grad()
        entropy(logits)[torch.from_numpy(dropped)].mean().backward()
        optimizer.step()
    return logits.detach()
