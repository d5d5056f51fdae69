"""Exact gradients of a detector's numbers, faster than one backward pass through the whole detector for each."""
