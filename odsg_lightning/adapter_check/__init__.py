"""Whether a detector of one's own keeps to the protocol, and what is wrong where it does not."""
