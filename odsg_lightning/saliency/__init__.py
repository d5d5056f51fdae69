"""The mathematics of one image, and what it needs of a detector: without Detectron2 or Lightning."""
