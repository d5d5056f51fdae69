"""Explainers: from a detector, an image and some of its detections to maps of each of them.

All have the signature of :class:`odsg_lightning.explainers.base.Explainer`, and a name:
:func:`odsg_lightning.explainers.by_name.make_explainer`.
"""
