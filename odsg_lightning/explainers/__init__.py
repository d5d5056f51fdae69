"""Explainers: from a detector, an image and some of its detections to five maps for each of them.

All have the signature of :class:`odsg_lightning.explainers.base.Explainer`.
"""
