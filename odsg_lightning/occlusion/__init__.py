"""Causes beside gradients: what a detector still says of an object when pixels are hidden."""
