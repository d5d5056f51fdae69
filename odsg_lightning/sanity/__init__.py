"""Whether an explainer's maps depend on what a detector has learned at all (Adebayo et al., 2018)."""
