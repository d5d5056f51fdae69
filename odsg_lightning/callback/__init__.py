"""The audit callback, and what it logs and writes. Nothing here loads Detectron2."""
