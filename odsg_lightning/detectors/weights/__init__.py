"""Weight files of unknown origin: read with care, and loaded into a detector with a report of what was loaded."""
