"""What the mathematics needs of a detector, and the adapters that give it."""
