"""What students write in workshop 1, right and wrong, each with its true cause; written from the text of the notebook, without the checks."""
# ruff: noqa: B018, B905, F841
import copy
import math

import torch
import torch.nn.functional as F

ANSWERS = []                                             # (exercise, cause or None where right, function)


def answer(exercise: str, cause: str | None = None):
    def add(function):
        ANSWERS.append((exercise, cause, function))
        return function
    return add


# ---- entropy: right -------------------------------------------------------------------------------------------------
@answer("entropy")
def entropy(logits):
    log_p = logits.log_softmax(1)
    return -(log_p.exp() * log_p).sum(1)


@answer("entropy")
def entropy_categorical(logits):
    return torch.distributions.Categorical(logits=logits).entropy()


@answer("entropy")
def entropy_functional(z):
    return (F.softmax(z, dim=-1) * -F.log_softmax(z, dim=-1)).sum(dim=-1)


@answer("entropy")
def entropy_loop(logits):
    out = []
    for row in logits:
        lp = torch.log_softmax(row, dim=0)
        out.append(-torch.sum(torch.exp(lp) * lp))
    return torch.stack(out)


@answer("entropy")
def entropy_einsum_float64(logits):
    z = logits.double()
    return -torch.einsum("bk,bk->b", z.softmax(1), z.log_softmax(1))


@answer("entropy")
def entropy_logsumexp(logits):
    return torch.logsumexp(logits, 1) - (torch.softmax(logits, 1) * logits).sum(1)


@answer("entropy")
def entropy_clamped(logits):
    p = logits.softmax(dim=1)
    return -(p * p.clamp(min=1e-12).log()).sum(dim=1)


@answer("entropy")
def entropy_small_epsilon(logits):
    p = torch.softmax(logits, 1)
    return -torch.sum(p * torch.log(p + 1e-10), dim=1)


@answer("entropy")
def entropy_by_hand_on_a_copy(logits):
    z = logits.clone()
    z = z - z.max(dim=1, keepdim=True).values.detach()
    log_sum = z.exp().sum(dim=1, keepdim=True).log()
    q = (z - log_sum).exp()
    return (q * (log_sum - z)).sum(dim=1)


@answer("entropy")
def entropy_cross_entropy_with_itself(logits):
    return F.cross_entropy(logits, logits.softmax(1), reduction="none")


# ---- entropy: wrong -------------------------------------------------------------------------------------------------
@answer("entropy", "the softmax runs over the images instead of the classes")
def softmax_over_images(logits):
    lp = logits.log_softmax(0)
    return -(lp.exp() * lp).sum(1)


@answer("entropy", "the sum runs over the images instead of the classes: one number per class")
def sum_over_images(logits):
    lp = logits.log_softmax(1)
    return -(lp.exp() * lp).sum(0)


@answer("entropy", "softmax and sum both run over the images: one number per class")
def both_over_images(logits):
    return -(logits.softmax(0) * logits.log_softmax(0)).sum(0)


@answer("entropy", "logarithm to base 2: bits instead of nats")
def bits(logits):
    p = logits.softmax(1).clamp(min=1e-12)
    return -(p * p.log2()).sum(1)


@answer("entropy", "logarithm to base 10")
def base_ten(logits):
    p = torch.softmax(logits, 1) + 1e-12
    return -(p * torch.log10(p)).sum(1)


@answer("entropy", "the minus is missing")
def no_minus(logits):
    return (logits.softmax(1) * logits.log_softmax(1)).sum(1)


@answer("entropy", "mean over the classes instead of the sum")
def mean_over_classes(logits):
    return -(logits.softmax(1) * logits.log_softmax(1)).mean(1)


@answer("entropy", "one number for the whole batch, the sum of all entropies")
def batch_sum(logits):
    return -(logits.softmax(1) * logits.log_softmax(1)).sum()


@answer("entropy", "one number for the whole batch, the mean of the entropies")
def batch_mean(logits):
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()


@answer("entropy", "p log p is NaN where p is 0")
def plain_p_log_p(logits):
    p = logits.softmax(1)
    return -(p * p.log()).sum(1)


@answer("entropy", "nan_to_num repairs the value, the gradient stays NaN")
def nan_to_num(logits):
    p = logits.softmax(1)
    return -(p * p.log()).nan_to_num().sum(1)


@answer("entropy", "where repairs the value, the gradient stays NaN")
def where_positive(logits):
    p = logits.softmax(1)
    return -torch.where(p > 0, p * p.log(), torch.zeros_like(p)).sum(1)


@answer("entropy", "torch.special.entr is right in value, its gradient is NaN at p = 0")
def special_entr(logits):
    return torch.special.entr(logits.softmax(1)).sum(1)


@answer("entropy", "epsilon is so large that it shifts the values")
def large_epsilon(logits):
    p = logits.softmax(1)
    return -(p * (p + 0.01).log()).sum(1)


@answer("entropy", "sigmoid of each logit instead of softmax")
def sigmoid(logits):
    p = torch.sigmoid(logits).clamp(1e-9, 1)
    return -(p * p.log()).sum(1)


@answer("entropy", "softmax forgotten: the logits are taken for probabilities")
def no_softmax(logits):
    return -(logits * logits.log()).sum(1)


@answer("entropy", "changes the logits that it was given")
def in_place(logits):
    with torch.no_grad():
        logits -= logits.max(1, keepdim=True).values
    return -(logits.softmax(1) * logits.log_softmax(1)).sum(1)


@answer("entropy", "- ln of the largest probability, not the entropy")
def minus_log_of_largest(logits):
    return -logits.log_softmax(1).max(1).values


@answer("entropy", "weighs ln p with the logits instead of the probabilities")
def logits_times_log_p(logits):
    return -(logits * logits.log_softmax(1)).sum(1)


@answer("entropy", "cut off from its history: no gradient reaches the logits")
def under_no_grad(logits):
    with torch.no_grad():
        lp = logits.log_softmax(1)
        return -(lp.exp() * lp).sum(1)


@answer("entropy", "keepdim: shape (B, 1) instead of (B,)")
def keepdim(logits):
    lp = logits.log_softmax(1)
    return -(lp.exp() * lp).sum(1, keepdim=True)


@answer("entropy", "divided by ln C: 1 at most instead of ln C")
def normalised(logits):
    lp = logits.log_softmax(1)
    return -(lp.exp() * lp).sum(1) / math.log(logits.shape[1])


@answer("entropy", "softmax twice")
def softmax_twice(logits):
    q = logits.softmax(1)
    return -(q.softmax(1) * q.log_softmax(1)).sum(1)


@answer("entropy", "exponentials by hand overflow: NaN for large logits")
def exp_overflows(logits):
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    return -(p * (p + 1e-12).log()).sum(1)


@answer("entropy", "1 - sum of p squared (Gini), not the entropy")
def gini(logits):
    return 1 - (logits.softmax(1) ** 2).sum(1)


@answer("entropy", "entropy of the mean prediction of the batch, one number")
def of_the_mean_prediction(logits):
    p = logits.softmax(1).mean(0)
    return -(p * p.log()).sum()


@answer("entropy", "return stands inside the loop: only the first image")
def return_inside_the_loop(logits):
    for row in logits:
        lp = row.log_softmax(0)
        return -(lp.exp() * lp).sum()


@answer("entropy", "logarithm forgotten: minus the sum of the probabilities")
def no_logarithm(logits):
    return -logits.softmax(1).sum(1)


@answer("entropy", "exp of the entropy (the effective number of classes)")
def exponential(logits):
    lp = logits.log_softmax(1)
    return (-(lp.exp() * lp).sum(1)).exp()


@answer("entropy", "nothing is returned")
def entropy_without_return(logits):
    lp = logits.log_softmax(1)
    H = -(lp.exp() * lp).sum(1)


# ---- tent_step: right -----------------------------------------------------------------------------------------------
@answer("tent_step")
def step(model, images, optimizer):
    logits = model(images)
    optimizer.zero_grad()
    entropy(logits).mean().backward()
    optimizer.step()
    return logits.detach()


@answer("tent_step")
def step_clears_first(net, x, opt):
    opt.zero_grad(set_to_none=False)
    out = net(x)
    loss = torch.mean(entropy(out))
    loss.backward()
    opt.step()
    return out.detach().clone()


@answer("tent_step")
def step_clears_at_the_end(model, images, optimizer):
    logits = model(images)
    loss = entropy(logits).mean()
    loss.backward()
    optimizer.step()
    optimizer.zero_grad()
    return logits.data


@answer("tent_step")
def step_clears_the_model(model, images, optimizer):
    model.zero_grad()
    logits = model(images)
    H = entropy(logits)
    (H.sum() / len(H)).backward()
    optimizer.step()
    with torch.no_grad():
        return logits.clone()


@answer("tent_step")
def step_answer_kept_first(model, images, optimizer):
    with torch.enable_grad():
        logits = model(images)
        answer_now = logits.clone().detach()
        loss = 0
        for h in entropy(logits):
            loss = loss + h / images.shape[0]
        optimizer.zero_grad()
        loss.backward()
    optimizer.step()
    return answer_now


@answer("tent_step")
def step_clears_by_hand(model, images, optimizer):
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.grad = None
    logits = model(images)
    torch.distributions.Categorical(logits=logits).entropy().mean().backward()
    optimizer.step()
    return logits.detach()


@answer("tent_step")
def step_float64(model, images, optimizer):
    logits = model(images)
    loss = entropy(logits.double()).mean()
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()
    return logits.detach()


@answer("tent_step")
def step_closure(model, images, optimizer):
    logits = model(images)

    def closure():
        optimizer.zero_grad()
        loss = entropy(logits).mean()
        loss.backward()
        return loss
    optimizer.step(closure)
    return logits.detach()


# ---- tent_step: wrong -----------------------------------------------------------------------------------------------
@answer("tent_step", "gradients are never cleared, they add up over the batches")
def no_zero_grad(model, images, optimizer):
    logits = model(images)
    entropy(logits).mean().backward()
    optimizer.step()
    return logits.detach()


@answer("tent_step", "gradients are cleared between backward and step: nothing is learned")
def cleared_before_the_step(model, images, optimizer):
    logits = model(images)
    entropy(logits).mean().backward()
    optimizer.zero_grad()
    optimizer.step()
    return logits.detach()


@answer("tent_step", "the optimiser makes no step")
def no_step(model, images, optimizer):
    logits = model(images)
    optimizer.zero_grad()
    entropy(logits).mean().backward()
    return logits.detach()


@answer("tent_step", "no backward: the step has no gradient")
def no_backward(model, images, optimizer):
    logits = model(images)
    optimizer.zero_grad()
    loss = entropy(logits).mean()
    optimizer.step()
    return logits.detach()


@answer("tent_step", "step before backward: it uses the gradient of the batch before, or none")
def step_before_backward(model, images, optimizer):
    logits = model(images)
    optimizer.zero_grad()
    loss = entropy(logits).mean()
    optimizer.step()
    loss.backward()
    return logits.detach()


@answer("tent_step", "step first, then clear and backward: each step uses the gradient of the batch before")
def step_is_one_batch_late(model, images, optimizer):
    logits = model(images)
    optimizer.step()
    optimizer.zero_grad()
    entropy(logits).mean().backward()
    return logits.detach()


@answer("tent_step", "sum of the entropies instead of the mean")
def sum_of_entropies(model, images, optimizer):
    logits = model(images)
    optimizer.zero_grad()
    entropy(logits).sum().backward()
    optimizer.step()
    return logits.detach()


@answer("tent_step", "the loss has the wrong sign: the entropy grows")
def maximises(model, images, optimizer):
    logits = model(images)
    optimizer.zero_grad()
    (-entropy(logits).mean()).backward()
    optimizer.step()
    return logits.detach()


@answer("tent_step", "answers with a second forward, from after the step")
def answers_after_the_step(model, images, optimizer):
    optimizer.zero_grad()
    entropy(model(images)).mean().backward()
    optimizer.step()
    with torch.no_grad():
        return model(images)


@answer("tent_step", "the answer is not detached")
def not_detached(model, images, optimizer):
    logits = model(images)
    optimizer.zero_grad()
    entropy(logits).mean().backward()
    optimizer.step()
    return logits


@answer("tent_step", "returns probabilities instead of logits")
def returns_probabilities(model, images, optimizer):
    logits = model(images)
    optimizer.zero_grad()
    entropy(logits).mean().backward()
    optimizer.step()
    return logits.detach().softmax(1)


@answer("tent_step", "returns class numbers instead of logits")
def returns_classes(model, images, optimizer):
    logits = model(images)
    optimizer.zero_grad()
    entropy(logits).mean().backward()
    optimizer.step()
    return logits.argmax(1)


@answer("tent_step", "returns the loss instead of the logits")
def returns_the_loss(model, images, optimizer):
    logits = model(images)
    loss = entropy(logits).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


@answer("tent_step", "nothing is returned")
def step_without_return(model, images, optimizer):
    logits = model(images)
    optimizer.zero_grad()
    entropy(logits).mean().backward()
    optimizer.step()
    logits.detach()


@answer("tent_step", "puts the network into eval mode")
def sets_eval(model, images, optimizer):
    model.eval()
    logits = model(images)
    optimizer.zero_grad()
    entropy(logits).mean().backward()
    optimizer.step()
    return logits.detach()


@answer("tent_step", "puts the network into train mode")
def sets_train(model, images, optimizer):
    model.train()
    logits = model(images)
    optimizer.zero_grad()
    entropy(logits).mean().backward()
    optimizer.step()
    return logits.detach()


@answer("tent_step", "eval for the forward, then back to train: the forward has the wrong mode")
def eval_and_back(model, images, optimizer):
    before = model.training
    model.eval()
    logits = model(images)
    model.train(before)
    optimizer.zero_grad()
    entropy(logits).mean().backward()
    optimizer.step()
    return logits.detach()


@answer("tent_step", "the forward stands under no_grad: there is nothing to go backward on")
def forward_under_no_grad(model, images, optimizer):
    with torch.no_grad():
        logits = model(images)
    optimizer.zero_grad()
    entropy(logits).mean().backward()
    optimizer.step()
    return logits


@answer("tent_step", "detached before the loss: no gradient reaches the network")
def detached_too_early(model, images, optimizer):
    logits = model(images).detach()
    optimizer.zero_grad()
    loss = entropy(logits).mean().requires_grad_()
    loss.backward()
    optimizer.step()
    return logits


@answer("tent_step", "cross-entropy with the own most probable class instead of the entropy")
def pseudo_labels(model, images, optimizer):
    logits = model(images)
    optimizer.zero_grad()
    F.cross_entropy(logits, logits.argmax(1)).backward()
    optimizer.step()
    return logits.detach()


@answer("tent_step", "makes two steps on a batch")
def two_steps(model, images, optimizer):
    first = None
    for _ in range(2):
        logits = model(images)
        first = logits.detach() if first is None else first
        optimizer.zero_grad()
        entropy(logits).mean().backward()
        optimizer.step()
    return first


@answer("tent_step", "changes the images that it was given")
def changes_images(model, images, optimizer):
    images -= images.mean()
    logits = model(images)
    optimizer.zero_grad()
    entropy(logits).mean().backward()
    optimizer.step()
    return logits.detach()


@answer("tent_step", "makes an optimiser of its own instead of using the one given")
def own_optimizer(model, images, optimizer):
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    logits = model(images)
    optimizer.zero_grad()
    entropy(logits).mean().backward()
    optimizer.step()
    return logits.detach()


@answer("tent_step", "asks the network image by image: batch norm sees batches of one")
def image_by_image(model, images, optimizer):
    logits = torch.cat([model(image[None]) for image in images])
    optimizer.zero_grad()
    entropy(logits).mean().backward()
    optimizer.step()
    return logits.detach()


@answer("tent_step", "makes one step for each image instead of one for the batch")
def one_step_per_image(model, images, optimizer):
    logits = model(images)
    for i in range(len(images)):
        optimizer.zero_grad()
        entropy(model(images)[i:i + 1]).mean().backward()
        optimizer.step()
    return logits.detach()


@answer("tent_step", "entropy of the mean prediction instead of the mean of the entropies")
def entropy_of_the_mean(model, images, optimizer):
    logits = model(images)
    p = logits.softmax(1).mean(0)
    optimizer.zero_grad()
    (-(p * p.log()).sum()).backward()
    optimizer.step()
    return logits.detach()


@answer("tent_step", "backward is called twice: the gradient is doubled")
def backward_twice(model, images, optimizer):
    logits = model(images)
    loss = entropy(logits).mean()
    optimizer.zero_grad()
    loss.backward(retain_graph=True)
    loss.backward()
    optimizer.step()
    return logits.detach()


@answer("tent_step", "learns on a copy: the given network stays as it was")
def learns_on_a_copy(model, images, optimizer):
    model = copy.deepcopy(model)
    logits = model(images)
    optimizer.zero_grad()
    entropy(logits).mean().backward()
    optimizer.step()
    return logits.detach()


@answer("tent_step", "zero_grad without parentheses: it is never called")
def zero_grad_not_called(model, images, optimizer):
    optimizer.zero_grad
    logits = model(images)
    entropy(logits).mean().backward()
    optimizer.step()
    return logits.detach()


@answer("tent_step", "returns before the step: the step is never reached")
def returns_too_early(model, images, optimizer):
    logits = model(images)
    optimizer.zero_grad()
    entropy(logits).mean().backward()
    return logits.detach()
    optimizer.step()


@answer("tent_step", "entropy of the probabilities: softmax twice")
def entropy_of_probabilities(model, images, optimizer):
    logits = model(images)
    optimizer.zero_grad()
    entropy(logits.softmax(1)).mean().backward()
    optimizer.step()
    return logits.detach()
