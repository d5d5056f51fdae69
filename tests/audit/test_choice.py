"""Which objects are left where an image has more than are audited."""

import random
from collections import Counter

import pytest

from odsg_lightning.audit.choice import chosen_objects


def street(images=8, persons=5):
    """Many persons, labelled first, and one object of a rarer class in every image."""
    objects = {}
    for image in range(1, images + 1):
        first = 100 * image
        objects[image] = [(first + n, 0) for n in range(persons)] + [(first + persons, 1 + image % 3)]
    return objects


def classes(objects, chosen):
    return Counter(label for image, of_image in objects.items() for a, label in of_image if (image, a) in chosen)


@pytest.mark.parametrize("limit", [1, 2, 3])
def test_no_class_is_lost_to_the_one_that_was_labelled_first(limit):
    objects = street()
    counts = classes(objects, chosen_objects(objects, limit))
    assert set(counts) == {0, 1, 2, 3}
    assert counts.total() == 8 * limit
    if limit <= 2:
        rare = [counts[label] for label in (1, 2, 3)]
        assert max(rare) - min(rare) <= 1


def test_classes_are_even_where_one_of_each_image_is_audited():
    counts = classes(street(), chosen_objects(street(), 1))
    assert counts == {0: 2, 1: 2, 2: 2, 3: 2}


def test_the_choice_does_not_depend_on_the_order_in_which_objects_are_listed():
    objects, shuffle = street(), random.Random(0)
    listed = list(objects.items())
    shuffle.shuffle(listed)
    mixed = {image: shuffle.sample(of_image, len(of_image)) for image, of_image in listed}
    assert chosen_objects(mixed, 2) == chosen_objects(objects, 2)


def test_all_are_chosen_without_a_limit_and_where_there_are_no_more():
    everything = {(image, annotation) for image, of_image in street().items() for annotation, _ in of_image}
    assert chosen_objects(street(), None) == chosen_objects(street(), 6) == chosen_objects(street(), 99) == everything


def test_an_image_without_objects_and_ids_below_zero():
    assert chosen_objects({-1: [(-3, 0), (-5, 0)], 2: []}, 1) == {(-1, -5)}
