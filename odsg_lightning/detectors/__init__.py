"""Detectors for the mathematics: Detectron2's models, built, filled with weights, and made differentiable."""
