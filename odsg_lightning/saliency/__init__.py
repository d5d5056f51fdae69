"""The mathematics of one image: pure functions on tensors, without Detectron2 or Lightning."""
