"""One audit: its settings, the loop over a fixed set of objects, measuring each once, isolation from training."""
