"""What the workshop's self-checks say: for each mistake a first sentence, and a stronger hint for the next try. Data only.

No first sentence holds the solution; a hint may name the function or the line that is needed. ``{...}`` is filled in by the check.
"""

EVERYWHERE = {  # mistakes that any exercise can hold: name -> (what is wrong, stronger hint)
    "stub": (
        "Not filled in yet. Replace the `...` in the function above with your own lines, run that cell, then run this one again.",
        "The function still has no lines of its own. Each exercise has hints to unfold: start with the first.",
    ),
    "no_return": ("Your function computes something but hands nothing back.", "The last line of the function needs the word `return`."),
    "not_a_function": ("The check expects your function itself, but got {got}.", "Write its name without brackets, as in `check_entropy(entropy)`."),
    "error": (
        "Your function stopped with {kind}: {text}{line}",
        "Run your function on a small tensor in a cell of its own and print `.shape` of each intermediate result.",
    ),
    "not_a_tensor": (
        "The result is {got}, not a torch tensor. Gradients pass through tensors only, so nothing could be learned from it.",
        "Stay with torch operations from the first line to the last: no `.item()`, `.tolist()`, `.numpy()` and no Python loop that collects numbers.",
    ),
    "shape": (
        "The result has shape {shape}, but {wanted} is expected.",
        "Print the shape after each operation; the axis of the images is 0, that of the classes 1.",
    ),
    "nan": ("There is a NaN (not a number) in the result for {where}.", "Somewhere a logarithm of 0, or 0 / 0, is taken: {remedy}"),
    "changes_input": (
        "After the call the tensors that you were given hold other numbers. Whoever uses them next gets the wrong ones.",
        "Methods that end in `_`, and `-=`, `/=`, `x[...] =`, change a tensor in place; use the form that makes a new one.",
    ),
    "random": (
        "Two calls with the same input gave different results, so something random is in there.",
        "Nothing in this exercise needs a random number.",
    ),
    "other": (
        "The values are not the expected ones, and the check does not recognise the mistake. {compare}",
        "Work out that small case with pencil and paper, then compare after each line of your function.",
    ),
}

ENTROPY = {
    "sign": (
        "The sign is the wrong way round: your result is negative, an entropy never is.",
        "Every ln p is at most 0; what must stand before the sum?",
    ),
    "axis": (
        "The probabilities of one image do not add up to 1: they were normalised along another axis.",
        "Logits are (images, classes); softmax must run over the classes, which is axis 1.",
    ),
    "summed_over_images": (
        "You got one number per class: the sum ran over the images.",
        "Sum over the classes, axis 1, so that one number per image is left.",
    ),
    "no_logarithm": (
        "Something is missing: for uniform logits over 3 classes the entropy must be ln 3 = 1.0986, yours is {uniform}.",
        "Each p is multiplied by its own *logarithm*, not by something else.",
    ),
    "no_weights": (
        "Each logarithm should count as much as its class is probable; yours all count the same.",
        "The entropy is the *expected* value of -ln p: multiply by p before you sum.",
    ),
    "logits_as_probabilities": (
        "The logits themselves were used as (log-)probabilities; they are not normalised.",
        "First turn logits into log-probabilities that belong together: there is a `..._softmax` for that.",
    ),
    "base_2": ("Your unit is bits: the logarithm has base 2. The lab counts in nats.", "Use the natural logarithm."),
    "base_10": ("The logarithm has base 10. The lab counts in nats.", "Use the natural logarithm."),
    "divided_by_ln_classes": (
        "Your entropy is divided by its maximum and lies between 0 and 1; that is another scale than Tent's loss.",
        "Leave out the division by ln C.",
    ),
    "mean_over_classes": ("Your values are too small by a factor equal to the number of classes.", "Sum over the classes, do not average."),
    "one_number": (
        "You return one number for the whole batch. It is needed per image: the filter of module 2 must look at single images.",
        "Leave the mean over the images to the caller; reduce over axis 1 only.",
    ),
    "per_class": ("You return one number per image *and* class: the last sum is missing.", "Sum over axis 1."),
    "softmax_twice": ("The values are much too even. It looks as if softmax was applied twice.", "The input is logits; go through softmax once."),
    "pseudo_label": (
        "This is the cross-entropy of the most probable class, -ln max p. It looks at one class only.",
        "All classes take part in an entropy, each weighted by its probability.",
    ),
    "nan": (
        "There is a NaN (not a number) for an image of which the model is very sure: a probability is exactly 0 there, and ln 0 is -infinity.",
        "Do not take the logarithm of a softmax: `log_softmax` gives both at once without ever meeting ln 0.",
    ),
    "nan_gradient": (
        "The values are right, but the gradient is NaN for an image of which the model is very sure. One step would ruin all weights.",
        "Repairing the value afterwards does not repair the gradient. Avoid ln 0 from the start: `log_softmax`.",
    ),
    "detached": (
        "The values are right, but no gradient can flow back: the result is cut off from the logits.",
        "Remove `.detach()`, `.data`, `.item()` or `no_grad` from the function.",
    ),
    "partly_detached": (
        "The values are right, but the gradient is not that of the entropy: a part of the formula was treated as a constant.",
        "Both factors, p and ln p, depend on the logits: detach neither.",
    ),
    "large_epsilon": (
        "Nearly right: the values are off by up to {gap:.3f}. A constant against ln 0 that is too large bends them.",
        "Use `log_softmax`, which needs no constant at all.",
    ),
}

STEP = {
    "ascent": (
        "The weights moved exactly the wrong way: the entropy grew.",
        "`backward` and `step` make smaller whatever you call `backward` on: the mean entropy itself.",
    ),
    "no_zero_grad": (
        "The first step is right, the second is not: it still holds the gradient of the first.",
        "PyTorch adds up gradients until they are cleared: call `optimizer.zero_grad()` in every step before `backward`.",
    ),
    "zeroed_before_step": (
        "The gradient was made and cleared again before the optimiser could use it: nothing moved.",
        "The order is: clear, backward, step.",
    ),
    "no_backward": ("The optimiser stepped, but there was no gradient: nothing moved.", "`.backward()` on the loss fills the gradients."),
    "no_step": ("The gradient is there, but the weights did not move.", "Only `optimizer.step()` moves weights."),
    "step_before_backward": (
        "The weights moved one call late: the optimiser stepped before the gradient of this batch was there.",
        "Clear, backward, step: in this order.",
    ),
    "many_steps": (
        "The optimiser made {steps} steps for one batch. Tent makes one, with the mean over all images.",
        "No loop over the images is needed.",
    ),
    "own_optimizer": (
        "The weights moved, but not by the optimiser that you were given.",
        "Use the argument `optimizer`; a new one forgets its moments at each call.",
    ),
    "sum": (
        "The direction is right but the step too long, by the number of images.",
        "Average over the images instead of summing: then the step does not depend on the batch size.",
    ),
    "entropy_of_mean": (
        "You averaged the predictions first and took the entropy of that. It rewards giving all images the same class.",
        "Entropy of each image first, then the mean.",
    ),
    "pseudo_label": ("The loss is the cross-entropy of the predicted class, not the entropy.", "Use your `entropy` on the logits."),
    "softmax_twice": ("The gradient is that of the entropy of softmax(softmax(...)).", "Give the logits to `entropy`, not the probabilities."),
    "detached": (
        "No gradient reaches the weights: the logits were cut off (detach or no_grad) before the loss.",
        "Detach only what you *return*; the loss needs the logits with their history.",
    ),
    "attached": (
        "Everything is learned as it should be, but the returned logits still carry their history. Keep a few thousand and memory is full.",
        "Return `logits.detach()`.",
    ),
    "after": (
        "The returned logits were made after the step, with a second forward. Tent answers with the prediction from before the step.",
        "One forward is enough: its logits serve for the loss and for the answer.",
    ),
    "returns_loss": ("You return the loss; the caller needs the predictions, as logits (images, classes).", "Return the logits of the forward."),
    "returns_probabilities": ("You return probabilities; the caller expects logits.", "Return what the model gave, before softmax."),
    "returns_classes": ("You return class numbers; the caller expects logits (images, classes).", "The `argmax` is left to the caller."),
    "nan": ("After the step some weights are NaN (not a number).", "Take the entropy from `log_softmax`; see the first exercise."),
    "mode": ("The model was switched to another mode (train or eval) and left there.", "Do not touch the mode: it was set up before."),
}

FILTER = {
    "class_of_adapted": (
        "The class is taken from the adapted model. Then a wrong but growing opinion always looks like a rise.",
        "c is the arg max of the *original* model; look at both probabilities of that same class.",
    ),
    "own_maximum": (
        "You compare the largest probability of each model, whichever class that is. Both must be of one and the same class.",
        "Find the class once, from the original model, and look it up in both.",
    ),
    "strict": (
        "An image whose probability did not change at all is dropped. At the first step that is every image, and nothing is ever learned.",
        "d = 0 counts as kept.",
    ),
    "reversed": ("You keep exactly those whose confidence fell.", "Keep where adapted minus original is at least 0."),
    "swapped": (
        "The two models have changed places.",
        "The first argument is the adapted model, the second the original: look at who gives the class and who is subtracted.",
    ),
    "logits": (
        "You compare logits. A logit can rise while the probability of its class falls, because the others rise more.",
        "Softmax first, over the classes.",
    ),
    "entropies": (
        "You compare entropies. The rule is about one class: the one that the original model predicts.",
        "No entropy is needed in this function.",
    ),
    "same_class": (
        "You keep images whose predicted class did not change. That is not the rule: confidence may fall while the class stays.",
        "Compare the probabilities of c.",
    ),
    "axis": ("The probabilities of one image do not add up to 1: softmax ran over the images.", "Classes are axis 1."),
    "all": ("Every image is kept, whatever the models say.", "Something makes d at least 0 always: an absolute value, or twice the same model?"),
    "none": ("No image is ever kept.", "Check the comparison with a batch on which both models agree exactly: all must be kept."),
    "fixed_threshold": (
        "You compare with a fixed threshold. The rule needs none: the original model is the measure.",
        "Compare with the original model's probability of c.",
    ),
    "margin": ("The rule asks for more (or less) than d >= 0: images near 0 are treated differently.", "Compare with 0 exactly."),
    "relative": ("You compare each image with the mean of the batch. The rule looks at one image at a time.", "Compare d with 0, not with its mean."),
    "not_a_decision": ("You return numbers; a yes or no for each image is wanted.", "Turn d into a decision with a comparison: `d >= ...`."),
    "indices": (
        "You return the positions of the kept images; a yes or no for *each* image is wanted.",
        "Return the comparison itself, without `nonzero` or `where`.",
    ),
    "rows": ("You return the kept rows; a yes or no for each image is wanted.", "Return the mask, the caller will use it."),
    "one_decision": ("You return one decision for the whole batch.", "No mean and no `all()`: shape (images,)."),
    "wrong_lookup": (
        "The class of each image is looked up in all images: `p[:, c]` gives a square.",
        "`p.gather(1, c[:, None])` looks up one class per row.",
    ),
}

FILTERED = {
    "keeps_all": (
        "The weights moved as without the filter: all images were learned from. Do you compare with the *frozen* model, and is the mask used?",
        "Call `source(images)` for the original's logits and `model(images)` for the adapted's; give both to `crowd_filter`, then use the result.",
    ),
    "divides_by_all": (
        "The sum is over the kept images, but it is divided by the number of all. Then a batch with few kept images hardly counts.",
        "Divide by how many were kept.",
    ),
    "not_divided": ("The losses of the kept images are summed, not averaged.", "Divide by how many were kept."),
    "reversed": ("You learned from exactly those images that should be dropped.", "True means keep."),
    "swapped": ("The filter was called with its arguments in the wrong order.", "`crowd_filter(adapted_logits, source_logits)`."),
    "source_learns": (
        "The original model has changed. Then there is nothing left to compare with.",
        "Neither step, nor copy weights into, nor call `backward` through `source`.",
    ),
    "grad_for_source": (
        "Everything is right, but the forward of the original model recorded what only a gradient would need: memory and time for nothing.",
        "Put the call of `source` under `with torch.no_grad():`.",
    ),
    "empty_nan": (
        "On a batch in which no image is kept your weights became NaN: 0 / 0.",
        "Step only if something was kept, or divide by `kept.sum().clamp(min=1)`.",
    ),
    "moves_when_empty": ("On a batch in which no image is kept the weights still moved.", "Nothing kept, nothing learned."),
    "returns_kept": (
        "You return the logits of the kept images only; the dropped ones need an answer too.",
        "The filter decides who teaches, not who is answered.",
    ),
    "returns_source": ("You return the original model's logits.", "Return those of the adapted model from before the step."),
    "no_gradient": (
        "No gradient reached the adapted model: the loss was made of logits that were cut off or are the original's.",
        "The entropy is that of `model(images)`, with gradient; only `source` is under `no_grad`.",
    ),
} | {
    name: STEP[name]
    for name in (
        "ascent",
        "no_zero_grad",
        "zeroed_before_step",
        "no_backward",
        "no_step",
        "step_before_backward",
        "many_steps",
        "own_optimizer",
        "attached",
        "after",
        "returns_loss",
        "returns_probabilities",
        "returns_classes",
        "mode",
    )
}

EFFECTIVE = {
    "no_exponential": (
        "This is the entropy of the shares. A *number of classes* is wanted: 4 for four classes that are predicted equally often.",
        "Take exp of it.",
    ),
    "sign": ("Your number is below 1; the least possible is 1, when all images get one class.", "exp(+H), and H itself has a minus sign."),
    "nan": (
        "There is a NaN when a class is never predicted: 0 times ln 0.",
        "Leave out classes with share 0, or clamp inside the logarithm: 0 ln 0 counts as 0.",
    ),
    "counts": ("The counts were used as they are; the formula is about shares, which add up to 1.", "Divide by the number of predictions."),
    "different_classes": (
        "You count how many classes appear at all. One image of a class then weighs as much as thousand.",
        "Use the entropy of the shares: rare classes count little.",
    ),
    "mixed_bases": (
        "The logarithm and the power do not belong together (base 2 with e, or the other way round).",
        "exp goes with the natural logarithm, 2 ** with `log2`.",
    ),
    "inverse_simpson": (
        "This is 1 / sum of s squared, also an effective number, but another one. Here exp of the entropy is wanted.",
        "exp(-sum s ln s).",
    ),
    "largest_share": ("You look at the most frequent class only.", "All shares take part."),
    "softmax": ("The counts went through a softmax. Shares are counts divided by their sum.", "No softmax here."),
    "divided_by_classes": ("You divided by the number of classes; the shares must add up to 1.", "Divide by the number of *predictions*."),
    "normalised": (
        "Your value lies between 0 and 1; a number between 1 and the number of classes is wanted.",
        "Leave out the division by the maximum.",
    ),
    "class_numbers": (
        "You calculate with the class numbers as if they were quantities. Class 9 is not more than class 1.",
        "Count first: `torch.bincount`.",
    ),
    "not_summed": ("You return one number per class; one for all is wanted.", "The sum over the classes is missing."),
    "drops_a_class": ("One of the classes is not counted.", "Classes are numbered from 0; there are `n_classes` of them."),
}

RESETS = {
    "never": (
        "The model is never reset, although its predictions shrink to one class.",
        "Call `model.reset()` where the number falls below `least`.",
    ),
    "always": ("The model is reset after every batch. Then it never learns anything.", "Reset only when the number is below `least`."),
    "reversed": ("You reset while all is well, and not when classes vanish.", "Below `least` is the bad side."),
    "too_early": (
        "You reset before `window` predictions were there. A few images always look like few classes.",
        "Wait until at least `window` predictions have come in.",
    ),
    "keeps_old": (
        "After a reset the old predictions still count, so the healthy model is reset again at once.",
        "Forget the remembered predictions when you reset.",
    ),
    "whole_past": ("You look at everything since the start; a collapse at the end drowns in it.", "Only the last `window` predictions count."),
    "last_batch": (
        "You look at the last batch only. It is too small to tell.",
        "Keep predictions of several batches, and look at the last `window`.",
    ),
    "one_late": ("You look before you add the predictions of this batch, so the alarm comes a batch late.", "Predict, add, look: in this order."),
    "at_most": ("You reset at exactly `least` too.", "*Below* `least`: use <."),
    "asks_again": (
        "You ask the model again for a batch that it has answered. Test images come once, and each call learns.",
        "Keep the first answer; the reset helps from the next batch on.",
    ),
    "lost_answers": (
        "Some answers are missing from the result.",
        "Remember for the alarm and collect for the result in two lists: only one is emptied.",
    ),
    "returns_logits": ("You return logits; class numbers are wanted, one per image.", "`argmax(1)`."),
    "reset_without_brackets": ("The model is never reset: `model.reset` without brackets only names the function.", "`model.reset()`"),
    "not_joined": ("You return a list; one tensor with the classes of all images is wanted.", "`torch.cat` joins them."),
}

VOTE = {
    "pairs": (
        "You averaged over pairs of methods. The vote asks: on how many images do I say what *most* say?",
        "Find the most frequent class of each image first, then compare each method with it.",
    ),
    "percent": ("Your shares are 100 times too large: per cent.", "A share lies between 0 and 1: `.float().mean()`."),
    "counts": ("You return numbers of images, not shares.", "Divide by the number of images: `.float().mean()`."),
    "disagreement": ("You count disagreement; agreement is wanted, so that high is good.", "Use == and not !=."),
    "first_candidate": ("You compare with one of the methods instead of with the vote of all.", "The mode over the methods, image by image."),
    "wrong_axis": ("The vote was taken over the images instead of over the methods.", "Stack to (methods, images); the vote runs along axis 0."),
    "mean_class": ("You averaged class numbers. Between coat (4) and sandal (5) there is nothing.", "The most frequent class: `torch.mode`."),
    "commonest_overall": ("You compare all images with the one class that is most frequent overall.", "Each image has its own vote."),
    "without_self": ("You leave out a method's own vote. Here each method has one vote, also on itself.", "One vote of all for everyone."),
    "unanimous": ("You count only images on which all methods agree; that gives everyone the same number.", "Most, not all."),
    "only_best": ("You return a single name; a share for each method is wanted.", "A dict: name -> share."),
    "not_a_dict": ("You return {got}; a dict is wanted: name -> share.", "`{{name: ... for name in predictions}}`"),
    "names": ("The names in your dict are not those that came in.", "Use the keys of `predictions`."),
    "not_averaged": ("Under each name stands one value per image; the mean over the images is missing.", "`.float().mean()`"),
}
