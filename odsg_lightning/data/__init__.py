"""Images and annotations: COCO files read with care, the Lightning data module, the choice of audit images."""
