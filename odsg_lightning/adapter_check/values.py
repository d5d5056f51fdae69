"""Whether scores and labels mean what audits take them for, and the pixels what the model takes them for."""

from collections.abc import Callable

from torch import Tensor
from torchvision.ops import box_iou

from odsg_lightning.adapter_check.look import Look, confidence
from odsg_lightning.adapter_check.result import Verdict
from odsg_lightning.detectors.torchvision import WITH_BACKGROUND


def check_scores(look: Look) -> Verdict:
    """Scores lie between 0 and 1."""
    if len(look.found) == 0:
        return "undecided", "Nothing was detected."
    scores = look.found.scores
    least, most = float(scores.amin()), float(scores.amax())
    if least < 0 or most > 1:
        return "failure", (
            f"Scores range from {least:.3g} to {most:.3g}: logits. Apply the activation that the model is trained "
            "with, `.sigmoid()` or `.softmax(-1)`; thresholds of an audit are between 0 and 1."
        )
    return "ok", f"Between 0 and 1; the highest is {most:.2f}."


def check_labels(look: Look) -> Verdict:
    """Labels count from 0, as those of the audit set do."""
    if len(look.found) == 0:
        return "undecided", "Nothing was detected."
    labels = look.found.labels
    least, most, count = int(labels.amin()), int(labels.amax()), look.num_classes
    if least < 0:
        return (
            "failure",
            f"A label is {least}: labels are class indices from 0. Leave out what stands for the background.",
        )
    if count is not None and most >= count:
        from_one = " They count from 1 (0 for the background)? Subtract 1." if most == count and least > 0 else ""
        return "failure", (
            f"A label is {most}, but with {count} classes labels run from 0 to {count - 1}.{from_one} A background "
            "class, or categories' ids in place of their indices, must not be among them."
        )
    against_truth = _labels_of_annotated(look)
    if against_truth is not None:
        return against_truth
    if least > 0 and _counts_background(look):
        return "warning", (
            "No label is 0, and the model is one of torchvision's that keep 0 for the background: labels from 1. "
            "Subtract 1 in `detect`; annotations= would tell for sure."
        )
    if least > 0:
        return "undecided", "No label is 0. Do they count from 1? Give annotations= or num_classes= to tell."
    return "ok", f"From {least} to {most}." + ("" if count else " num_classes= would tell whether that is too many.")


def _labels_of_annotated(look: Look) -> Verdict | None:
    """Compare the labels of detections with those of the annotations that they hit; None where nothing is hit."""
    if look.truth is None or len(look.truth.labels) == 0:
        return None
    best = look.best
    overlap = box_iou(best.boxes.to(look.truth.boxes), look.truth.boxes)
    hit = overlap.amax(1) >= 0.5
    right = look.truth.labels[overlap.argmax(1)][hit]
    apart = best.labels[hit] - right
    if len(apart) == 0:
        return None
    if bool((apart == 1).all()) and bool((right != right[0]).any()):  # of one class alone it may be chance
        return "failure", (
            "Each detection's label is one more than that of the annotation that it hits: labels from 1 (0 for the "
            "background, as in torchvision)? Audits count classes from 0: subtract 1 in `detect`."
        )
    if not bool((apart == 0).any()):
        return "warning", (
            "No detection has the label of the annotation that it hits. Untrained? Otherwise, are these COCO's "
            "category ids, or is the order of the classes another one? Labels are positions in the file's categories, "
            "by ascending id, from 0."
        )
    return "ok", f"{int((apart == 0).sum())} of {len(apart)} detections have the label of the annotation that they hit."


def _counts_background(look: Look) -> bool:
    if type(look.subject.detector).__module__.startswith("odsg_lightning."):
        return False  # our own adapter counts from 0
    return any(isinstance(part, WITH_BACKGROUND) for module in look.subject.modules for part in module.modules())


# Pixels ---------------------------------------------------------------------------------------------------------------


def check_range(look: Look) -> Verdict:
    """The detector is surest of an image of 0 to 255, not of one divided or multiplied by 255."""
    changed: dict[str, Callable[[Tensor], Tensor]] = {
        "0 to 1: divide by 255 in `detect`, before the model": lambda image: image / 255,
    }
    if look.truth is not None:  # without them, a model that is sure of noise would look as if it wanted more
        changed["255 times more: do not divide by 255 where the model does so"] = lambda image: image * 255
    return _surest(look, "The image comes with pixels from 0 to 255, but the model seems to want", changed)


def check_channels(look: Look) -> Verdict:
    """The detector is surest of RGB, not of BGR."""
    if bool((look.image[0] == look.image[2]).all()):
        return "undecided", "This image has no colours to tell RGB from BGR."
    changed: dict[str, Callable[[Tensor], Tensor]] = {"BGR: flip the channels, `image.flip(0)`": lambda i: i.flip(0)}
    status, words = _surest(look, "The image comes as RGB, but the model seems to want", changed)
    # Colours matter little to many detectors: one that was trained on RGB was surer by more than 0.1 of BGR in 2 of 100
    # images, and a half-trained one more than twice as sure.
    return ("warning" if status == "failure" else status), words


def _surest(look: Look, complaint: str, changed: dict[str, Callable[[Tensor], Tensor]]) -> Verdict:
    """Compare how sure the detector is of the image, and of what a mistake would have made of it.

    With annotations it is a failure if at least half of the confidence was lost by the mistake; a warning without
    them, and only for a clear difference: a detector may be sure of nonsense, too.
    """
    now = confidence(look.found, look.truth)
    then = {
        name: confidence(look.subject.detect(change(look.image))[0], look.truth) for name, change in changed.items()
    }
    name = max(then, key=lambda name: then[name])
    of_what = "of the annotated objects" if look.truth is not None else "at most, and nothing says whether rightly"
    words = f"{complaint} {name}. It is sure by {then[name]:.2f} {of_what} that way, by {now:.2f} as it is."
    if look.truth is not None and then[name] > now + 0.1:
        return ("failure" if now < then[name] / 2 else "warning"), words
    if look.truth is None and then[name] > max(now + 0.2, 0.5):
        return "warning", words
    if now < 0.3:
        return "undecided", "The detector is sure of nothing here, so that this image cannot tell."
    if look.truth is None and then[name] > now - 0.1:
        return "undecided", f"It is as sure either way ({now:.2f} and {then[name]:.2f}): give annotations=."
    return "ok", f"Surest of the image as it is ({now:.2f}, otherwise {then[name]:.2f})."
