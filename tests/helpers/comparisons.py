"""Comparisons made up by hand."""

import base64
import io

from PIL import Image

from odsg_lightning.comparison.measures import MEASURES
from odsg_lightning.comparison.result import CheckpointResult, ComparedObject, Comparison, ImageResult, Pictures
from odsg_lightning.names import PARAMETERS


def webp():
    stream = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 60, 30)).save(stream, "WEBP")
    return base64.b64encode(stream.getvalue()).decode()


def image_result(image_id, values, *, category="cat", missed=(), left_out=None, pictures=False):
    """An image of one object; ``values`` is by explainer one number for all measures, or a dict of some."""
    by_name = {
        name: value if isinstance(value, dict) else {measure.key: value for measure in MEASURES}
        for name, value in values.items()
    }
    one = ComparedObject(image_id, 10 * image_id, category, 0.9, 0.8, by_name, {name: 1 for name in values})
    drawn = Pictures(10 * image_id, f"{category}, score 0.90", webp(), {name: {"score": webp()} for name in values})
    seconds = {name: 0.5 for name in values}
    return ImageResult(image_id, (one,), missed, left_out or {}, seconds, drawn if pictures else None)


def checkpoint_result(images, name="model.ckpt", explainers=None):
    names = explainers or list(images[0].objects[0].values)
    gives = {one: PARAMETERS if one != "d_rise" else ("score",) for one in names}
    return CheckpointResult(name, "a" * 64, tuple(images), {one: f"{one}()" for one in names}, gives)


def comparison(*checkpoints, steps=50):
    settings = {"steps": steps, "score_threshold": 0.5, "pair_iou": 0.5, "seed": 0, "images": 8}
    return Comparison("b" * 64, settings, "processor", checkpoints)
