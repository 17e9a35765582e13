"""Pure functions of logits: (B, C, *S) -> (B, *S), classes on axis 1, natural logarithms, at least
float32 inside.

S is empty for a classifier and (H, W) for a segmentation network; one line serves both.
"""
from __future__ import annotations

import torch
from torch import Tensor


def upcast(x: Tensor) -> Tensor:
    """In at least single precision: half and bfloat16 become float32; float32 and float64 stay."""
    return x if x.dtype in (torch.float32, torch.float64) else x.float()


def entropy(logits: Tensor) -> Tensor:
    """Entropy of the softmax, H = -sum_k p_k ln p_k, in nats: 0 (certain) to ln C (uniform)."""
    logp = upcast(logits).log_softmax(1)
    return -(logp.exp() * logp).sum(1)


def confidence(logits: Tensor) -> Tensor:
    """Largest softmax probability, 1/C to 1 (maximum softmax probability, MSP)."""
    return upcast(logits).softmax(1).amax(1)


def probability_of(logits: Tensor, classes: Tensor) -> Tensor:
    """Softmax probability of the given class (B, *S) at each place."""
    return upcast(logits).softmax(1).gather(1, classes.unsqueeze(1)).squeeze(1)


def energy(logits: Tensor) -> Tensor:
    """Negative free energy ln sum_k exp z_k (temperature 1); higher means more like the known
    classes."""
    return upcast(logits).logsumexp(1)


def margin(logits: Tensor) -> Tensor:
    """Difference of the two largest probabilities; needs at least two classes."""
    best, second = upcast(logits).softmax(1).topk(2, dim=1).values.unbind(1)
    return best - second


def mean_prediction(logits: Tensor) -> Tensor:
    """Softmax averaged over the batch and all places, (C,)."""
    p = upcast(logits).softmax(1)
    return p.mean([d for d in range(p.ndim) if d != 1])


def marginal_entropy(logits: Tensor) -> Tensor:
    """Entropy of the mean prediction, in nats, a scalar; it falls towards 0 when predictions
    concentrate on one class.

    A class of probability 0 counts 0 (x ln x -> 0) and pulls at nothing: its gradient stays finite.
    """
    mean = mean_prediction(logits)
    return -torch.special.xlogy(mean, mean.clamp_min(torch.finfo(mean.dtype).tiny)).sum()


def symmetric_cross_entropy(a: Tensor, b: Tensor) -> Tensor:
    """1/2 CE(softmax b -> a) + 1/2 CE(softmax a -> b), (B, *S); symmetric, and the entropy where
    both are the same."""
    log_a, log_b = upcast(a).log_softmax(1), upcast(b).log_softmax(1)
    return -0.5 * (log_b.exp() * log_a + log_a.exp() * log_b).sum(1)
