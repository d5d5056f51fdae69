"""Audit records as one page that explains itself: no network, no other file. Nothing here loads torch."""
