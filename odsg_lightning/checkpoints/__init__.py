"""Finished checkpoints: from a file of unknown origin to a detector, and its audit."""
