"""Figures as arrays; nothing here writes a file."""
