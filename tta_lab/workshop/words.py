"""What the workshop's self-checks say: for each mistake a first sentence, and a stronger hint for
the next try. Data only.

A sentence says what the check has seen or proven, and stays true when a second mistake stands
beside it. No first sentence holds the solution; a hint may name the function or the line that is
needed. ``{...}`` is filled in by the check.
"""

EVERYWHERE = {  # mistakes that any exercise can hold: name -> (what is wrong, stronger hint)
    "stub": (
        "Not filled in yet. Replace the `...` in the function above with your own lines, run that "
        "cell, then "
        "run this one again.",
        "The function still has no lines of its own. Each exercise has hints to unfold: start "
        "with the first.",
    ),
    "no_return": (
        "Your function hands nothing back{where}.",
        "Every way through the function must end with the word `return` and the result.",
    ),
    "not_a_function": (
        "The check expects your function itself, but got {got}.",
        "Write its name without brackets, as in `check_entropy(entropy)`.",
    ),
    "error": (
        "Your function stopped{where} with {kind}: {text}{line}",
        "Run your function on a small tensor in a cell of its own and print `.shape` of each "
        "intermediate result.",
    ),
    "not_a_tensor": (
        "The result is {got}, not a torch tensor.",
        "Stay with torch operations from the first line to the last: no `.tolist()`, no "
        "`.numpy()`; Python "
        "lists are joined by `torch.stack`.",
    ),
    "shape": (
        "The result has shape {shape}, but {wanted} is expected.",
        "Print the shape after each operation; the axis of the images is 0, that of the classes 1.",
    ),
    "changes_input": (
        "After the call what you were given holds other numbers. Whoever uses it next gets the "
        "wrong ones.",
        "Methods that end in `_`, and `-=`, `/=`, `x[...] =`, `.pop`, change in place; use the "
        "form that makes "
        "a new one.",
    ),
    "random": (
        "Two calls with the same input gave different results: something random, or something "
        "kept from call to"
        " call, is in there.",
        "Nothing in this exercise needs a random number or a global variable.",
    ),
    "other": (
        "The values are not the expected ones, and this mistake is not among those that the check "
        "knows. {compare}",
        "Work out that small case with pencil and paper, then compare after each line of your "
        "function.",
    ),
}

ENTROPY = {
    "sign": (
        "The sign is the wrong way round; an entropy is never negative.",
        "Every ln p is at most 0; what must stand before the sum?",
    ),
    "axis": (
        "The softmax runs over the images: the probabilities of one image do not add up to 1.",
        "Logits are (images, classes); softmax must run over the classes, which is axis 1.",
    ),
    "over_all": (
        "The probabilities add up to 1 over the whole batch, not for each image.",
        "Softmax over the classes, axis 1, image by image.",
    ),
    "mixed_axes": ("p and ln p were normalised along different axes.", "Both run over the "
                   "classes, axis 1."),
    "softmax_twice": (
        "Softmax was applied twice to (a part of) the formula.",
        "The input is logits; go through softmax once.",
    ),
    "sigmoid_first": (
        "The logits go through a sigmoid before the softmax.",
        "No sigmoid: softmax takes the logits as they are.",
    ),
    "sigmoid": (
        "The probabilities come from a sigmoid, so those of one image do not add up to 1.",
        "Softmax over the classes in its place.",
    ),
    "negative_logits": (
        "The softmax is that of the negative logits: the least probable class becomes the most "
        "probable.",
        "softmax(logits), no minus.",
    ),
    "logits_as_probabilities": (
        "The logits themselves were used as probabilities, or their logarithm as ln p; they are "
        "not normalised "
        "and may be negative.",
        "First turn logits into log-probabilities that belong together: there is a `..._softmax` "
        "for that.",
    ),
    "not_normalised": (
        "exp of the logits was used as a probability without dividing by the sum.",
        "Softmax divides by the sum over the classes.",
    ),
    "divided_logits": (
        "The logits were divided by their sum without an exponential; that is no softmax.",
        "softmax = exp(z) / sum exp(z).",
    ),
    "log_of_log": (
        "ln p was used as if it were p.",
        "`log_softmax` gives ln p; p is the exponential of it.",
    ),
    "temperature": (
        "The logits were divided (or multiplied) by a constant before the softmax.",
        "Softmax takes the logits as they are.",
    ),
    "normalised_logits": (
        "The logits of each image were rescaled before the softmax.",
        "Softmax takes the logits as they are.",
    ),
    "leaves_out_a_class": ("Not all classes take part.", "No slicing: the sum runs over every "
                           "class."),
    "no_logarithm": (
        "There is no logarithm in the sum: p was multiplied by something else, or by nothing.",
        "Each p is multiplied by its own *logarithm*.",
    ),
    "logits_for_logarithm": (
        "p is multiplied by the logit instead of ln p; a logit is ln p only up to a constant of "
        "each image.",
        "Each p is multiplied by its own *logarithm*.",
    ),
    "no_weights": (
        "Each logarithm should count as much as its class is probable; yours all count the same.",
        "The entropy is the *expected* value of -ln p: multiply by p before you sum.",
    ),
    "squared_weights": ("p or ln p enters the product twice.", "One p times one ln p."),
    "added": ("p and ln p are added, not multiplied.", "p times ln p."),
    "log_of_sum": ("The logarithm is that of 1 + p, not of p.", "ln p."),
    "each_against_rest": (
        "Each class is taken as a yes or no of its own (p ln p + (1 - p) ln(1 - p)); softmax "
        "classes share one "
        "probability.",
        "The sum of p ln p over the classes alone.",
    ),
    "rest": ("1 - p stands where p should, in the weight or in the logarithm.", "p ln p."),
    "base_2": ("Your unit is bits: the logarithm has base 2. The lab counts in nats.",
               "Use the natural logarithm."),
    "base_10": ("The logarithm has base 10. The lab counts in nats.", "Use the natural logarithm."),
    "divided_by_ln_classes": (
        "Your entropy is divided by its maximum, ln C; that is another scale than Tent's loss.",
        "Leave out the division by ln C.",
    ),
    "mean_over_classes": (
        "The mean over the classes is taken where the sum is wanted: too small by the number of "
        "classes.",
        "Sum over the classes.",
    ),
    "summed_over_images": (
        "The sum (or mean) runs over the images: you return one number per class.",
        "Reduce over the classes, axis 1, so that one number per image is left.",
    ),
    "one_number": (
        "You return one number for the whole batch. It is needed per image: the filter of module "
        "2 must look at"
        " single images.",
        "Leave the mean over the images to the caller; reduce over axis 1 only.",
    ),
    "per_class": ("You return one number per image *and* class: the last sum is missing.",
                  "Sum over axis 1."),
    "per_image_and_class": (
        "You return one number per image *and* class; one per image is wanted.",
        "Something must be summed over axis 1.",
    ),
    "only_largest": ("Only one term of the sum is taken, the smallest or the largest.", "Sum over "
                     "all classes."),
    "only_first": ("Only the term of class 0 is taken.", "Sum over all classes."),
    "keepdim": (
        "The numbers are right, but an axis of length 1 is left in the shape.",
        "No `keepdim`; shape (images,).",
    ),
    "cumulative": ("The sum is a running one.", "`sum`, not `cumsum`."),
    "pseudo_label": (
        "This is the cross-entropy of the most probable class, -ln max p. It looks at one class "
        "only.",
        "All classes take part in an entropy, each weighted by its probability.",
    ),
    "largest_probability": (
        "This is the largest probability (or 1 minus it), a confidence and no entropy.",
        "- sum of p ln p over all classes.",
    ),
    "largest_term": ("This is p ln p of the most probable class alone.", "All classes take part "
                     "in an entropy."),
    "margin": ("This is the margin between the two largest probabilities.", "- sum of p ln p over "
               "all classes."),
    "distance_from_uniform": (
        "This is ln C minus the entropy (or its negative), the distance from the uniform "
        "distribution.",
        "The entropy itself.",
    ),
    "one_minus": ("This is 1 minus the entropy.", "The entropy itself."),
    "exponential": ("This is the exponential of the (negative) entropy.", "The entropy itself."),
    "squared": ("This is the square or the root of the entropy.", "The entropy itself."),
    "logsumexp": (
        "This is the log of the sum of the exponentials, the normaliser of the softmax alone.",
        "- sum of p ln p over the classes.",
    ),
    "spread": (
        "This is a variance or standard deviation over the classes, no entropy.",
        "- sum of p ln p over the classes.",
    ),
    "divided_by_sum": (
        "The entropies are normalised over the batch.",
        "One image knows nothing of the others: leave that out.",
    ),
    "divided_by_images": ("The entropies are divided by the number of images.", "The mean is left "
                          "to the caller."),
    "log_of_batch": ("This is the logarithm of the entropy.", "The entropy itself."),
    "mean_first": (
        "The images are averaged first, and the entropy is that of the mean.",
        "The entropy of each image: axis 0 stays.",
    ),
    "same_for_all": ("Every image gets the same number.", "Do not reduce over axis 0."),
    "one_image": ("Only one image of the batch is answered.", "One number for each row."),
    "order": ("The numbers are right but not in the order of the images.", "No sorting: entry i "
              "belongs to image i."),
    "sum_of_probabilities": (
        "Every image gets the same number, {value}: the probabilities of an image add up to 1, "
        "and no ln p is left.",
        "Each p is multiplied by its own *logarithm* before the sum.",
    ),
    "constant": (
        "Every image gets the same number, {value}, whatever its logits are.",
        "What is left of the logits in the last line?",
    ),
    "scaled": (
        "Every value is {factor} times the right one.",
        "Where does that factor come from? The formula has none.",
    ),
    "shifted": ("Every value is the right one {shift}.", "Where does that constant come from? The "
                "formula has none."),
    "not_finite": (
        "There are NaN or infinite values already for ordinary logits.",
        "Which logarithm is taken of a negative number or of 0?",
    ),
    "nan": (
        "There is a NaN or an infinity for an image of which the model is very sure: a "
        "probability is exactly 0"
        " there, and ln 0 is minus infinity.",
        "Do not take the logarithm of a softmax: `log_softmax` gives both at once without ever "
        "meeting ln 0.",
    ),
    "overflow": (
        "For the logits 200, 199.5, 199 the result is not finite although no probability is near "
        "0: exp(200) is"
        " too large for float32.",
        "Do not take the exponential of a logit yourself: `log_softmax` subtracts the largest "
        "first.",
    ),
    "nan_gradient": (
        "The values are right, but the gradient is NaN or infinite for an image of which the "
        "model is very "
        "sure. One step would ruin all weights.",
        "Repairing the value afterwards does not repair the gradient. Avoid ln 0 from the start: "
        "`log_softmax`.",
    ),
    "detached": (
        "The values are right, but no gradient can flow back: the result is cut off from the "
        "logits.",
        "Remove `.detach()`, `.data`, `.item()`, `torch.tensor(...)` or `no_grad` from the "
        "function.",
    ),
    "partly_detached": (
        "The values are right, but the gradient is not that of the entropy: a part of the formula "
        "was treated "
        "as a constant.",
        "Both factors, p and ln p, depend on the logits: detach neither.",
    ),
    "wrong_gradient": (
        "The values are right, but the gradient is not. {compare}",
        "Is something cut off from its history, clamped or rounded on the way?",
    ),
    "large_epsilon": (
        "Nearly right: a constant or a limit against ln 0 that is too large bends the values. "
        "{compare}",
        "Use `log_softmax`, which needs no constant at all.",
    ),
}

STEP = {
    "never_asked": ("The model was never asked.", "`model(images)` gives the logits."),
    "copy_asked": (
        "You asked a copy of the model, not the model itself: what the copy learns is lost.",
        "No `deepcopy`: `model(images)` gives the logits.",
    ),
    "ascent": (
        "The gradient has the wrong sign: the step makes the loss larger.",
        "`backward` and `step` make smaller whatever you call `backward` on: the mean entropy "
        "itself.",
    ),
    "no_zero_grad": (
        "The gradient at the second step still holds that of the first: the old one was not "
        "cleared.",
        "PyTorch adds up gradients until they are cleared: call `optimizer.zero_grad()` in every "
        "step before "
        "`backward`.",
    ),
    "zeroed_before_step": (
        "The gradient was made and cleared again before the optimiser could use it: nothing was "
        "learned.",
        "The order is: clear, backward, step.",
    ),
    "no_backward": (
        "The optimiser stepped, but no gradient was ever asked for.",
        "`.backward()` on the loss fills the gradients.",
    ),
    "nothing_learned": (
        "Neither was a gradient asked for nor did the optimiser step.",
        "Clear, backward, step: three calls.",
    ),
    "no_step": (
        "The gradient is there, but the optimiser was never asked to step.",
        "Only `optimizer.step()` moves weights.",
    ),
    "no_gradient": (
        "`backward` was called, but no gradient reached the scale and shift of the normalisation "
        "layers.",
        "The loss must be made of `model(images)`, with its history: no detach, no "
        "`requires_grad_()` on the loss.",
    ),
    "cut_off": (
        "The loss has the right value, but the logits were cut off from their history on the way "
        "to it: no gradient "
        "reached the weights.",
        "Detach only what you return; the loss is made of `model(images)` as it is.",
    ),
    "not_recorded": (
        "The loss has the right value, but the forward was not recorded, so no gradient reached "
        "the weights.",
        "Call `model(images)` outside of `torch.no_grad()`; no `requires_grad_()` on the loss.",
    ),
    "zero_gradient": (
        "The gradient that reached the weights is exactly 0: the loss does not depend on any "
        "image that should teach.",
        "Print the loss and, where there is one, the mask: is anything of the forward left in it?",
    ),
    "no_history": (
        "The loss has no history, so `backward` cannot go back to the weights: on the way from "
        "`model(images)` "
        "something was cut off.",
        "Look for `no_grad`, `detach`, `.data`, `.item()`, `argmax` between the forward and the "
        "loss; detach "
        "only what you *return*.",
    ),
    "not_scalar": (
        "`backward` was called on more than one number.",
        "The loss is one number: the mean over the images.",
    ),
    "step_before_backward": (
        "The optimiser stepped before the gradient of this batch was there.",
        "Clear, backward, step: in this order.",
    ),
    "many_steps": (
        "The optimiser made {steps} steps for one batch. One is wanted.",
        "One `optimizer.step()`; no loop over the images is needed.",
    ),
    "own_optimizer": (
        "The weights moved, but not by a step of the optimiser that you were given.",
        "Use the argument `optimizer`; a new one forgets its moments at each call.",
    ),
    "moved_otherwise": (
        "The optimiser stepped with the right gradient, but the weights were also changed "
        "otherwise.",
        "Nothing but `optimizer.step()` touches the weights.",
    ),
    "optimizer_settings": (
        "The optimiser's settings were changed.",
        "Leave learning rate and the rest as they were given.",
    ),
    "flags": ("`requires_grad` of the model's parameters was changed.", "`ready_to_adapt` has set "
              "it up: leave it."),
    "sum": (
        "The entropies of the images are summed, so the step grows with the size of the batch.",
        "Average over the images instead.",
    ),
    "mean_over_classes": (
        "The loss is divided by the number of classes.",
        "The mean over the images of the *sum* over the classes.",
    ),
    "sum_of_classes": (
        "The entropies are summed over the images and averaged over the classes; it is the other "
        "way round.",
        "Sum over classes, mean over images.",
    ),
    "divided_twice": ("The loss is divided by the number of images twice.", "One mean is enough."),
    "base_2": ("The loss is in bits.", "Use the natural logarithm."),
    "divided_by_ln_classes": ("The loss is divided by ln C.", "Leave out that division."),
    "scaled": (
        "The gradient has the right direction, but is {factor} times as long as it should be.",
        "Where does that factor come from?",
    ),
    "scaled_too": (
        "Beside that, the gradient is {factor} times as long as it should be.",
        "Where does that factor come from?",
    ),
    "other_length": (
        "The gradient has the right direction, but another length at each step (first: {factor} "
        "times the right one).",
        "No clipping and no weights.",
    ),
    "entropy_of_mean": (
        "You averaged the predictions first and took the entropy of that. It rewards giving all "
        "images the same class.",
        "Entropy of each image first, then the mean.",
    ),
    "with_diversity": (
        "The loss also holds the entropy of the mean prediction.",
        "Only the mean of the entropies of the images.",
    ),
    "axis": (
        "The entropy is taken along the images.",
        "Softmax over the classes, axis 1; then the mean over the images.",
    ),
    "one_image": ("The loss is the entropy of one image only.", "The mean over the images."),
    "half_of_them": ("Only a part of the images enters the loss.",
                     "All images of the batch count."),
    "extreme": (
        "Only the image with the largest, smallest or middle entropy enters the loss.",
        "The mean over the images.",
    ),
    "uncertain_left_out": ("Images with a large entropy are left out of the loss.", "All images "
                           "of the batch "
                           "count."),
    "norm": ("The loss is another function of the entropies than their mean.", "`.mean()`."),
    "backward_twice": (
        "`backward` was called more than once before the step: the gradients add up, and the step "
        "is too long.",
        "One `backward` for one step.",
    ),
    "batch_of_one": (
        "The images were sent through the network one by one: batch statistics need the batch.",
        "One forward of the whole batch.",
    ),
    "pseudo_label": (
        "The loss is the cross-entropy of the predicted class, not the entropy.",
        "Use your `entropy` on the logits.",
    ),
    "softmax_twice": (
        "The loss is made of softmax(softmax(...)).",
        "Give the logits to `entropy`, not the probabilities.",
    ),
    "largest_probability": (
        "The loss is made of the largest probability, not of the entropy.",
        "Use your `entropy` on the logits.",
    ),
    "largest_logit": (
        "The loss is made of the largest logit, not of the entropy.",
        "Use your `entropy` on the logits.",
    ),
    "no_logarithm": ("There is no ln p in the loss.", "Use your `entropy` on the logits."),
    "no_weights": ("The loss sums ln p without the weights p.",
                   "Use your `entropy` on the logits."),
    "partly_detached": ("A part of the entropy was treated as a constant.", "Detach neither p nor "
                        "ln p."),
    "margin": ("The loss is the margin between two probabilities.", "Use your `entropy` on the "
               "logits."),
    "squared": ("The loss is made of a power, exponential or logarithm of each entropy.",
                "The entropies as they are."),
    "temperature": (
        "The logits are divided (or multiplied) by a constant before the entropy.",
        "The logits as they are.",
    ),
    "logsumexp": ("The loss is the logarithm of the sum of the exponentials.", "Use your "
                  "`entropy` on the "
                  "logits."),
    "logits_mean": ("The loss is the mean of the logits.", "Use your `entropy` on the logits."),
    "logits_squared": ("The loss is made of the squares of the logits.", "Use your `entropy` on "
                       "the logits."),
    "sigmoid": ("The loss is made of sigmoids.", "Softmax over the classes."),
    "weighted": ("The images have different weights in the loss.", "A plain mean over the images."),
    "spread": ("The loss is a variance over the classes.", "Use your `entropy` on the logits."),
    "other_gradient": (
        "The gradient at the {step} step is not that of the loss, and it is none that the check "
        "knows: for "
        "{what} it is {seen}, expected is {wanted}.",
        "The loss is the mean over the images of `entropy(logits)`, with the logits of the one "
        "forward.",
    ),
    "attached": (
        "Everything is learned as it should be, but the logits returned{where} still carry their "
        "history. Keep a few "
        "thousand and memory is full.",
        "Return `logits.detach()`.",
    ),
    "after": (
        "The returned logits are those of *after* the step{where}. Wanted is the prediction from "
        "before the step.",
        "One forward is enough: its logits serve for the loss and for the answer.",
    ),
    "returns_loss": (
        "You return the loss or entropies; the caller needs the predictions, as logits (images, "
        "classes).",
        "Return the logits of the forward.",
    ),
    "returns_number": (
        "You return {got}; the caller needs the predictions, as logits (images, classes).",
        "Return the logits of the forward.",
    ),
    "returns_probabilities": (
        "You return probabilities; the caller expects logits.",
        "Return what the model gave, before softmax.",
    ),
    "returns_probabilities_after": (
        "You return probabilities of after the step; wanted are the logits of before it.",
        "Return what the one forward gave.",
    ),
    "returns_log_probabilities": (
        "You return log-probabilities; the caller expects logits.",
        "Return what the model gave, before softmax.",
    ),
    "returns_classes": (
        "You return class numbers; the caller expects logits (images, classes).",
        "The `argmax` is left to the caller.",
    ),
    "returns_confidence": (
        "You return one confidence per image; the caller expects logits (images, classes).",
        "Return the logits of the forward.",
    ),
    "returns_images": ("You return the images.", "Return the logits of the forward."),
    "averages": ("You return a mean of logits.", "Return the logits of the forward, one row per "
                 "image."),
    "axis_of_softmax": (
        "You return a softmax over the images; the caller expects logits.",
        "Return what the model gave.",
    ),
    "other_answer": (
        "The learning is right, but not what is returned{where}: the logit of image {image}, "
        "class {label} is "
        "{seen}, expected is {wanted}.",
        "Return the logits of the forward, as they are.",
    ),
    "nan": (
        "After the step some weights are NaN (not a number).",
        "Take the entropy from `log_softmax`; see the first exercise.",
    ),
    "mode": (
        "`{who}` was in {was} mode and was switched to {now} mode.",
        "Do not touch the mode: it was set up before.",
    ),
}

FILTER = {
    "class_of_adapted": (
        "The class is taken from the adapted model. Then a wrong but growing opinion always looks "
        "like a rise.",
        "c is the arg max of the *original* model; look at both probabilities of that same class.",
    ),
    "own_maximum": (
        "You compare the largest value of each model, whichever class that is. Both must be of "
        "one and the same class.",
        "Find the class once, from the original model, and look it up in both.",
    ),
    "crossed_classes": (
        "Each model is looked up at the class that the *other* one predicts.",
        "One class, that of the original model, for both.",
    ),
    "least_class": ("The class is the least probable one.", "arg max, not arg min."),
    "class_along_images": ("The class comes from a softmax over the images.", "The arg max over "
                           "the classes, axis "
                           "1."),
    "mean_over_classes": (
        "You compare means over all classes.",
        "One class, that of the original model, is looked up in both.",
    ),
    "first_class": (
        "Class 0 is looked up for every image.",
        "The class that the original model predicts, image by image.",
    ),
    "strict": (
        "An image whose probability did not change at all is dropped. At the first step that is "
        "every image, "
        "and nothing is ever learned.",
        "d = 0 counts as kept.",
    ),
    "reversed": (
        "You keep those whose value fell and drop those whose value rose.",
        "Keep where adapted minus original is at least 0.",
    ),
    "equal_only": ("You keep only images with d = 0.", "d >= 0."),
    "unequal": ("You keep all images with d different from 0, also those that fell.", "d >= 0."),
    "swapped": (
        "The two models have changed places.",
        "The first argument is the adapted model, the second the original: look at who gives the "
        "class and who "
        "is subtracted.",
    ),
    "logits": (
        "You compare logits. A logit can rise while the probability of its class falls, because "
        "the others rise more.",
        "Softmax first, over the classes.",
    ),
    "sigmoid": ("The probabilities come from a sigmoid.", "Softmax over the classes."),
    "softmax_twice": ("Softmax was applied twice.", "The arguments are logits: one softmax."),
    "over_all": ("The probabilities add up to 1 over the whole batch.", "Softmax over the "
                 "classes, axis 1."),
    "entropies": (
        "You look at entropies. The rule is about one class: the one that the original model "
        "predicts.",
        "No entropy is needed in this function.",
    ),
    "same_class": (
        "You keep images whose predicted class did not change. That is not the rule: confidence "
        "may fall while "
        "the class stays.",
        "Compare the probabilities of c.",
    ),
    "other_class": ("You keep images whose predicted class changed.", "Compare the probabilities "
                    "of c."),
    "same_class_too": (
        "You ask in addition that the predicted class is the same in both models.",
        "d >= 0 is the only condition.",
    ),
    "or_same_class": (
        "You also keep images that fell, if the predicted class is the same.",
        "d >= 0 is the only condition.",
    ),
    "entropies_too": ("Beside d, you look at the entropies.", "d >= 0 is the only condition."),
    "confident_too": ("You ask in addition that the adapted model is confident.", "d >= 0 is the "
                      "only condition."),
    "every_class": ("You ask that the value of every class has risen.", "One class: that of the "
                    "original model."),
    "any_class": (
        "You ask whether any class has risen; one nearly always has.",
        "One class: that of the original model.",
    ),
    "axis": (
        "The softmax runs over the images: the probabilities of one image do not add up to 1.",
        "Classes are axis 1.",
    ),
    "all": (
        "Every image is kept, whatever the models say.",
        "Something makes d at least 0 always: an absolute value, or twice the same model?",
    ),
    "absolute": (
        "Every image is kept, whatever the models say: an absolute value is never negative.",
        "d itself, with its sign, is compared with 0.",
    ),
    "keepdim": (
        "The decisions are right, but an axis of length 1 is left in the shape: (images, 1) "
        "instead of (images,).",
        "`[:, 0]` or `.squeeze(1)` takes it away.",
    ),
    "one_per_class": (
        "You return one decision per class: something ran over the images where it should run "
        "over the classes.",
        "Classes are axis 1, also in `argmax`, `max`, `all` and `gather`.",
    ),
    "none": (
        "No image is ever kept.",
        "Check the comparison with a batch on which both models agree exactly: all must be kept.",
    ),
    "fixed_threshold": (
        "You compare with a fixed threshold. The rule needs none: the original model is the "
        "measure.",
        "Compare with the original model's probability of c.",
    ),
    "margin": ("The limit is not d = 0: a rise is asked for, or a fall allowed.", "Compare with 0 "
               "exactly."),
    "ratio": ("You compare with a multiple of the original model's value.", "d >= 0, no factor."),
    "distance": ("You look at how far the value moved, not in which direction.", "No absolute "
                 "value: d >= 0."),
    "relative": (
        "You compare with a mean or median of the batch. The rule looks at one image at a time.",
        "Compare d of each image with 0.",
    ),
    "not_a_decision": (
        "You return d itself; a yes or no for each image is wanted.",
        "Turn d into a decision with a comparison: `d >= ...`.",
    ),
    "numbers": (
        "You return {dtype} numbers other than 0 and 1; a yes or no for each image is wanted.",
        "A comparison such as `d >= ...` gives a bool tensor.",
    ),
    "not_bool": (
        "The decisions are right, but their type is {dtype}. As an index, numbers select other "
        "rows than a mask"
        " does, or none.",
        "Return the comparison itself: a bool tensor, no `.float()` and no `.int()`.",
    ),
    "indices": (
        "You return the positions of the kept images; a yes or no for *each* image is wanted.",
        "Return the comparison itself, without `nonzero` or `where`.",
    ),
    "kept_rows": (
        "You return the kept rows; a yes or no for each image is wanted.",
        "Return the mask, the caller will use it.",
    ),
    "rows": (
        "You return a decision for each image *and* class.",
        "Look up one class per image, that of the original model.",
    ),
    "per_class": (
        "You return one value for each image *and* class.",
        "Look up one class per image, that of the original model.",
    ),
    "one_decision": ("You return one decision for the whole batch.", "No mean and no `all()`: "
                     "shape (images,)."),
    "one_for_all": ("Every image of a batch gets the same decision.", "No mean, no `all()`: one "
                    "comparison per image."),
    "square": (
        "The result has shape {shape} for {images} images: each image was compared with, or "
        "looked up in, all others.",
        "`p.gather(1, c[:, None])` looks up one class per row; take `[:, 0]` of it before you "
        "compare.",
    ),
}

FILTERED = {
    "keeps_all": (
        "The gradient is that of all images, as without the filter.",
        "Call `source(images)` for the original's logits and `model(images)` for the adapted's; "
        "give both to "
        "`crowd_filter`, then use the result.",
    ),
    "divides_by_all": (
        "The sum is over the kept images, but it is divided by the number of all. Then a batch "
        "with few kept "
        "images hardly counts.",
        "Divide by how many were kept.",
    ),
    "not_divided": ("The losses of the kept images are summed, not averaged.", "Divide by how "
                    "many were kept."),
    "second_forward": (
        "The kept images were sent through the network again: among themselves they have other "
        "batch "
        "statistics, so it is another loss.",
        "Forward the whole batch once; choose among its entropies: `entropy(logits)[keep]`.",
    ),
    "masks_logits": (
        "The logits of dropped images are set to 0. They still count in the mean, as images with "
        "the largest entropy.",
        "Choose among the entropies: `entropy(logits)[keep]`.",
    ),
    "masks_images": (
        "Dropped images are set to 0 and sent through the network: they change the statistics of "
        "the batch.",
        "Choose among the entropies.",
    ),
    "all_minus": (
        "The loss is the mean of all minus that of the kept ones.",
        "The mean entropy of the kept images alone.",
    ),
    "reversed": ("You learned from exactly those images that should be dropped.", "True means "
                 "keep."),
    "swapped": (
        "The filter was used with its arguments in the wrong order.",
        "`crowd_filter(adapted_logits, source_logits)`.",
    ),
    "class_of_adapted": (
        "The filter takes its class from the adapted model.",
        "Use your `crowd_filter`, which was checked.",
    ),
    "own_maximum": (
        "The filter compares the largest probability of each model.",
        "Use your `crowd_filter`, which was checked.",
    ),
    "mask_of_logits": ("The filter compares logits, not probabilities.", "Use your "
                       "`crowd_filter`, which "
                       "was checked."),
    "mask_of_entropies": (
        "Images are chosen by their entropy, not by the filter.",
        "Use your `crowd_filter`, which was checked.",
    ),
    "same_class": (
        "Images are chosen by whether both models predict the same class.",
        "Use your `crowd_filter`, which was checked.",
    ),
    "mask_of_probabilities": ("The filter was given probabilities in place of logits.",
                              "`crowd_filter` takes logits."),
    "entropy_of_source": (
        "The loss is made of the original model's logits.",
        "The entropy is that of `model(images)`.",
    ),
    "first_images": (
        "The right number of images is learned from, but the first ones of the batch.",
        "Use the mask as index: `entropy(logits)[keep]`.",
    ),
    "indices_of_mask": (
        "The mask was used as numbers: 0 and 1 name the first two images.",
        "A bool tensor as index selects rows.",
    ),
    "difference_of_means": (
        "The loss is the mean of the kept minus the mean of the dropped images.",
        "Dropped images do not count at all.",
    ),
    "source_moves": (
        "The weights of the original model have changed. Then there is nothing left to compare "
        "with.",
        "Neither step, nor copy weights into `source`.",
    ),
    "source_learns": (
        "A gradient reached the original model; it must not learn.",
        "Make the loss of `model(images)` only, and call `source` where nothing is recorded.",
    ),
    "grad_for_source": (
        "Everything is right, but the forward of the original model recorded what only a gradient "
        "would need: "
        "memory and time for nothing.",
        "Put the call of `source` under `with torch.no_grad():`.",
    ),
    "source_never_asked": (
        "The original model was never asked.",
        "`source(images)` gives its logits; put the call under `with torch.no_grad():`.",
    ),
    "all_in_place_of_any": (
        "Something is learned only where *every* image is kept; with 5 of 6 kept, nothing is.",
        "Only if *nobody* is kept no step is made: ask `keep.any()`.",
    ),
    "asks_for_many": (
        "With {few} of 6 images kept nothing is learned, with {least} something is. One kept "
        "image is enough.",
        "Only if *nobody* is kept no step is made: ask `keep.any()`.",
    ),
    "kept_but_idle": (
        "On a batch of which {kept} is kept nothing was learned.",
        "Only if *nobody* is kept no step is made: ask `keep.any()`.",
    ),
    "kept_but_other": (
        "On a batch of which {kept} is kept the gradient is not that of the loss: a value of it "
        "is {seen}, "
        "expected is {wanted}.",
        "The mean entropy of the kept images, `entropy(logits)[keep].mean()`, however many there "
        "are.",
    ),
    "empty_nan": (
        "On a batch in which no image is kept your weights became NaN.",
        "Step only if something was kept: ask `keep.any()` first.",
    ),
    "empty_nan_loss": (
        "On a batch in which no image is kept the loss became NaN: the mean of nothing is 0 / 0.",
        "Make the loss, and step, only if something was kept: ask `keep.any()` first.",
    ),
    "empty_learns": (
        "On a batch in which no image is kept something was learned: the optimiser stepped with a "
        "gradient.",
        "Nothing kept, nothing learned.",
    ),
    "empty_stale": (
        "On a batch in which no image is kept the optimiser stepped with the gradient of the "
        "batch before.",
        "The step too belongs under `if keep.any():`.",
    ),
    "empty_momentum": (
        "On a batch in which no image is kept the weights moved, although no image gave a "
        "gradient: Adam goes "
        "on by what it remembers of earlier steps.",
        "Step only if something was kept: `optimizer.step()` belongs under `if keep.any():` too.",
    ),
    "returns_kept": (
        "You return the logits of the kept images only; the dropped ones need an answer too.",
        "The filter decides who teaches, not who is answered.",
    ),
    "returns_zeros": (
        "The dropped images get zeros for an answer.",
        "The filter decides who teaches, not who is answered.",
    ),
    "returns_mask": (
        "You return the mask; the caller needs logits (images, classes).",
        "Return the logits of the adapted model.",
    ),
    "returns_source": (
        "You return the original model's logits{where}.",
        "Return those of the adapted model from before the step.",
    ),
    "mixes_source": (
        "You return a mixture of the two models' logits.",
        "All images are answered by the adapted model.",
    ),
    "no_history": (
        "The loss has no history, so `backward` cannot go back to the weights: logits were cut "
        "off on the way, "
        "or are the original's.",
        "The entropy is that of `model(images)`, with gradient; only `source` is under `no_grad`.",
    ),
    "other_gradient": (
        "The gradient at the {step} step is not that of the loss, and it is none that the check "
        "knows: for "
        "{what} it is {seen}, expected is {wanted}.",
        "The loss is the mean of `entropy(logits)[keep]`, with the logits of the one forward.",
    ),
}
FILTERED = STEP | FILTERED

EFFECTIVE = {
    "no_exponential": (
        "The exponential is missing: this is an entropy. A *number of classes* is wanted: 4 for "
        "four classes "
        "that are predicted equally often.",
        "Take exp of it.",
    ),
    "sign": ("The sign before the sum is the wrong way round.", "exp(+H), and H itself has a "
             "minus sign."),
    "one_over": ("One is divided by the entropy.", "The exponential of it."),
    "nan": (
        "It gives {value} when a class is never predicted; where every class appears it is right. "
        "0 times ln 0 "
        "is not a number.",
        "Leave out classes with share 0, or clamp inside the logarithm: 0 ln 0 counts as 0.",
    ),
    "nan_too": (
        "It gives {value} when a class is never predicted: 0 times ln 0 is not a number. Where "
        "every class "
        "appears it gives {seen}, expected is {wanted}.",
        "Leave out classes with share 0. Then compare with the formula: exp of *minus* the sum of "
        "s ln s.",
    ),
    "constant": (
        "It gives {value} for every list of predictions.",
        "Print the shares: are they numbers between 0 and 1 that add up to 1?",
    ),
    "exp_before_sum": (
        "The exponential is taken of each term, before the sum.",
        "First the sum over the classes, then one exponential.",
    ),
    "counts": (
        "The counts were used as they are; the formula is about shares, which add up to 1.",
        "Divide by the number of predictions.",
    ),
    "divided_by_classes": (
        "You divided by a number of classes; the shares must add up to 1.",
        "Divide by the number of *predictions*.",
    ),
    "divided_by_largest": (
        "You divided by the largest count; the shares must add up to 1.",
        "Divide by the number of *predictions*.",
    ),
    "one_too_few": ("You divided by one more or less than the number of predictions.", "Divide by "
                    "`len(predictions)`."),
    "norm": (
        "The counts were divided by the root of their squares; the shares must add up to 1.",
        "Divide by the number of *predictions*.",
    ),
    "softmax": (
        "The counts or shares went through a softmax. Shares are counts divided by their sum.",
        "No softmax here.",
    ),
    "class_numbers": (
        "You calculate with the class numbers as if they were quantities. Class 9 is not more "
        "than class 1.",
        "Count first: `torch.bincount`.",
    ),
    "drops_a_class": (
        "The first or the last class is not counted.",
        "Classes are numbered from 0; there are `n_classes` of them.",
    ),
    "drops_rare": ("Classes that appear once are not counted.", "Only classes with share 0 count "
                   "nothing."),
    "added_counts": ("Something was added to the counts.", "The counts as they are; leave out "
                     "classes with share 0."),
    "without_last": ("The last prediction is not counted.", "All predictions count."),
    "no_weights": ("Each logarithm should count as much as its share; yours all count the same.",
                   "s ln s."),
    "no_logarithm": ("There is no logarithm in the sum.", "s ln s."),
    "squared_weights": ("s enters the product twice.", "One s times one ln s."),
    "rest": ("1 - s stands where s should.", "s ln s."),
    "each_against_rest": ("Each class is taken as a yes or no of its own.", "The sum of s ln s "
                          "alone."),
    "log_plus_one": ("The logarithm is that of 1 + s.", "ln s."),
    "base_2": (
        "The logarithm has base 2 while the power has base e.",
        "exp goes with the natural logarithm, 2 ** with `log2`.",
    ),
    "base_10": (
        "The logarithm has base 10 while the power has base e.",
        "exp goes with the natural logarithm, 10 ** with `log10`.",
    ),
    "two_to_the": (
        "The power has base 2 (or is a square), while the logarithm is natural.",
        "exp goes with the natural logarithm.",
    ),
    "ten_to_the": ("The power has base 10 while the logarithm is natural.", "exp goes with the "
                   "natural logarithm."),
    "mean_over_classes": ("The mean over the classes is taken where the sum is wanted.",
                          "`.sum()`."),
    "only_largest": ("Only one class enters, not the sum over all.", "`.sum()`."),
    "normalised": (
        "The value is divided by the number of classes or its logarithm; a number between 1 and "
        "the number of "
        "classes is wanted.",
        "Leave out the division by the maximum.",
    ),
    "times_classes": ("The value is multiplied by the number of classes.", "Leave that out."),
    "exp_minus_one": ("The value is off by one.", "exp of the entropy, nothing added."),
    "rounded": ("The value is rounded.", "Leave the number as it is: 3.something is wanted."),
    "different_classes": (
        "You count how many classes appear at all. One image of a class then weighs as much as a "
        "thousand.",
        "Use the entropy of the shares: rare classes count little.",
    ),
    "all_classes": (
        "You return the number of classes that there are.",
        "The entropy of the shares of those that were predicted.",
    ),
    "inverse_simpson": (
        "This is made of the sum of s squared: also an effective number, but another one. Here "
        "exp of the "
        "entropy is wanted.",
        "exp(-sum s ln s).",
    ),
    "largest_share": ("You look at the most frequent class only.", "All shares take part."),
    "number_of_images": ("This is a number of predictions, not of classes.", "exp(-sum s ln s)."),
    "large_epsilon": (
        "Nearly right: a constant against ln 0 that is too large bends the value.",
        "Leave out classes with share 0; no constant is needed.",
    ),
    "not_one_number": (
        "You return {got}; one number is wanted.",
        "Is the sum over the classes there, and its exponential returned?",
    ),
}

RESETS = {
    "never": (
        "The model is never reset, although its predictions shrink to one class.",
        "Call `model.reset()` where the number falls below `least`.",
    ),
    "always": ("The model is reset whatever it predicts.", "Reset only when the number is below "
               "`least`."),
    "reversed": ("You reset while all is well, and not when classes vanish.", "Below `least` is "
                 "the bad side."),
    "no_exponential": (
        "The *entropy* is compared with `least`, which is a number of classes.",
        "Use your `effective_classes`.",
    ),
    "rounded": ("The number is rounded before it is compared.", "Compare it as it is."),
    "other_least": ("You compare with another number than `least`.", "Fewer than `least`: nothing "
                    "added, no factor."),
    "per_image": (
        "You look after each image, and reset in the middle of a batch.",
        "Look once per batch, when all its predictions are remembered.",
    ),
    "near": ("You reset when the number is near `least`, above or below.", "Below `least`: use <."),
    "too_early": (
        "You reset before `window` predictions were there. A few images always look like few "
        "classes.",
        "Wait until at least `window` predictions have come in.",
    ),
    "more_than_window": (
        "You wait for *more* than `window` predictions; exactly `window` are enough.",
        "At least: use >=.",
    ),
    "one_short": ("You look one prediction too early: `window` - 1 are not enough.", "`len(...) "
                  ">= window`."),
    "counts_batches": (
        "You count batches where predictions are to be counted.",
        "`window` is a number of predictions: add up the lengths of the batches.",
    ),
    "only_when_equal": (
        "You look only at the moment when exactly `window` predictions are there.",
        "At least `window`: use >=.",
    ),
    "every_window": (
        "You look only when the number of predictions is a multiple of `window`.",
        "After every batch, once at least `window` are there.",
    ),
    "since_start": (
        "You count the predictions since the very start; after a reset the window must fill again.",
        "Count those since the last reset.",
    ),
    "not_yet_full": ("You look while the window is not full, and no more afterwards.", "`len(...) "
                     ">= window`."),
    "two_windows": ("You wait for two windows.", "`len(...) >= window`."),
    "one_batch": (
        "Only the predictions of a single batch count towards `window`; those of the batches "
        "before are not there.",
        "Make the list before the loop, and forget only at a reset.",
    ),
    "keeps_old": (
        "After a reset the old predictions still count, so the healthy model is reset again at "
        "once.",
        "Forget the remembered predictions when you reset.",
    ),
    "keeps_last_batch": (
        "After a reset the predictions of the last batch still count.",
        "Forget all remembered predictions.",
    ),
    "drops_one": ("At a reset only one batch is forgotten.", "Forget all remembered predictions."),
    "whole_past": (
        "You look at everything since the start or the last reset; a collapse at the end drowns "
        "in it.",
        "Only the last `window` predictions count.",
    ),
    "first_window": ("You look at the *first* `window` predictions, not the last.",
                     "`[-window:]`."),
    "window_of_batches": (
        "You look at the last `window` *batches*.",
        "Join the predictions first, then take the last `window` of them.",
    ),
    "window_off_by_one": ("You look at one prediction more or less than the last `window`.",
                          "`[-window:]`."),
    "skips_window": ("You look at what comes *after* the first `window` predictions.",
                     "`[-window:]`."),
    "last_batch": (
        "You look at the last batch only. It is too small to tell.",
        "Keep predictions of several batches, and look at the last `window`.",
    ),
    "one_late": (
        "You look before you add the predictions of this batch, so the alarm comes a batch late.",
        "Predict, add, look: in this order.",
    ),
    "resets_first": (
        "You look, and reset, before the model predicts; after the last batch nobody looks.",
        "Predict, remember, look: in this order.",
    ),
    "tumbling": ("After each full window you start a new one; the window must slide.",
                 "Forget only at a reset."),
    "only_once": ("You reset once and never again.", "Whenever the number is too small, also the "
                  "second time."),
    "different_classes": (
        "You count how many classes appear at all; one stray image then counts as much as a "
        "hundred.",
        "Use your `effective_classes`.",
    ),
    "inverse_simpson": (
        "Your number of classes is made of the sum of s squared; exp of the entropy is wanted.",
        "Use your `effective_classes`.",
    ),
    "argmax_axis": (
        "You return one number per class of each batch: the most probable *image* of a class, not "
        "the class of an "
        "image.",
        "Logits are (images, classes); the class is found along axis 1.",
    ),
    "least_class": ("You take the *least* probable class.", "The most probable one: `argmax(1)`."),
    "remembers_calls": (
        "On the same batch with a new model a later call comes out differently: something is kept "
        "from call to call.",
        "A list as default value (`recent=[]`) or outside of the function lives on; make it new "
        "in the first line.",
    ),
    "at_most": ("You reset at exactly `least` too.", "*Fewer than* `least`: use <."),
    "never_asked": ("The model is never asked.", "`model(images)` for each batch."),
    "image_by_image": (
        "The model is asked image by image; batch by batch is wanted, as they come.",
        "`model(images)` for each batch.",
    ),
    "order": ("The batches are not asked in the order in which they come.", "One loop over "
              "`batches`."),
    "stops_early": (
        "Only {asked} of {batches} batches were answered: the loop ends too early.",
        "Is there a `return` or `break` inside the loop?",
    ),
    "asks_again": (
        "After a reset you ask the model again for a batch that it has answered. Test images come "
        "once, and "
        "each call learns.",
        "Keep the first answer; the reset helps from the next batch on.",
    ),
    "asks_twice": (
        "The model was asked more than once for batch {batch}. Each call learns.",
        "Keep the logits of one call and use them twice.",
    ),
    "lost_answers": (
        "Some answers are missing: the result holds {got} for {images} images.",
        "Remember for the alarm and collect for the result in two lists: only one is emptied.",
    ),
    "returns_logits": ("You return logits; class numbers are wanted, one per image.",
                       "`argmax(1)`."),
    "two_axes": (
        "The result has shape {shape}; one class number per image, one axis, is wanted.",
        "`torch.cat` joins along the images.",
    ),
    "reset_without_brackets": (
        "The model is never reset: `model.reset` without brackets only names the function.",
        "`model.reset()`",
    ),
    "not_joined": ("You return {got}; one tensor with the classes of all images is wanted.",
                   "`torch.cat` joins them."),
}

VOTE = {
    "pairs": (
        "You averaged over pairs of methods. The vote asks: on how many images do I say what "
        "*most* say?",
        "Find the most frequent class of each image first, then compare each method with it.",
    ),
    "constant": ("Every method gets {value}, whatever it predicted.", "Print what is compared "
                 "with ==, and its shape."),
    "percent": ("The shares are 100 times too large: per cent.", "A share lies between 0 and 1: "
                "`.float().mean()`."),
    "counts": ("You return numbers of images, not shares.", "Divide by the number of images: "
               "`.float().mean()`."),
    "divided_by_methods": ("You divided by the number of methods, not by that of the images.",
                           "`.float().mean()`."),
    "divided_twice": (
        "The shares are divided once more, by the number of methods or of images.",
        "`.float().mean()` is enough.",
    ),
    "one_off": (
        "You divided by one less than the number of images.",
        "Divide by the number of images: `.float().mean()`.",
    ),
    "adds_to_one": (
        "The scores are normalised among the methods; each share is one of all images.",
        "`.float().mean()` is enough.",
    ),
    "rounded": ("The shares are rounded.", "Leave them as they are."),
    "ranks": ("You return ranks.", "The share itself for each method."),
    "disagreement": ("You count disagreement; agreement is wanted, so that high is good.",
                     "Use == and not !=."),
    "names_mixed_up": (
        "The shares are right, but stand under other names.",
        "Keep name and predictions together: loop over `predictions.items()`.",
    ),
    "first_candidate": (
        "You compare with one of the methods instead of with the vote of all.",
        "The mode over the methods, image by image.",
    ),
    "wrong_axis": (
        "The vote was taken over the images instead of over the methods.",
        "Stack to (methods, images); the vote runs along axis 0.",
    ),
    "mean_class": (
        "You averaged class numbers. Between coat (4) and sandal (5) there is nothing.",
        "The most frequent class: `torch.mode`.",
    ),
    "median_class": (
        "You took the median of class numbers; classes have no order.",
        "The most frequent class: `torch.mode`.",
    ),
    "largest_class": (
        "You took the largest (or smallest) class number, or its place; classes have no order.",
        "The most frequent class: `torch.mode`.",
    ),
    "random_pick": (
        "You compare with the place of the smallest class number.",
        "The most frequent class: `torch.mode`.",
    ),
    "mode_indices": (
        "You took the *indices* of the mode, which say where it stands, and not its values.",
        "`.values`, or the first of the two results.",
    ),
    "commonest_overall": (
        "You compare all images with the one class that is most frequent overall.",
        "Each image has its own vote.",
    ),
    "without_self": (
        "You leave out a method's own vote. Here each method has one vote, also on itself.",
        "One vote of all for everyone.",
    ),
    "unanimous": (
        "You count only images on which all methods agree; that gives everyone the same number.",
        "Most, not all.",
    ),
    "any_other": ("You count images on which at least one other method says the same.", "The vote "
                  "is what *most* say."),
    "shared_majority": (
        "You ask for more than half of the methods; the most frequent class is enough, also with "
        "fewer.",
        "The most frequent class: `torch.mode`.",
    ),
    "average_voices": (
        "You average how many methods say the same.",
        "One winner per image; then the share of images with it.",
    ),
    "same_for_all": ("Every method gets the same number.", "One share for each method."),
    "own_classes": (
        "You look at each method alone: how often it says its own favourite class.",
        "The vote runs over the methods, image by image.",
    ),
    "only_best": ("You return {got}; a share for each method is wanted.", "A dict: name -> share."),
    "not_a_dict": ("You return {got}; a dict is wanted: name -> share.", "`{{name: ... for name "
                   "in predictions}}`"),
    "names": ("The names in your dict are {seen}; those that came in are {wanted}.",
              "Use the keys of `predictions`."),
    "not_averaged": (
        "Under each name stands one value per image; the mean over the images is missing.",
        "`.float().mean()`",
    ),
    "no_numbers": ("Under the names stands {got}, not a number.", "`.float().mean()`"),
}
