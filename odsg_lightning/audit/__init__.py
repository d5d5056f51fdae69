"""One audit: the loop over a fixed set of objects that callback and command line share."""
