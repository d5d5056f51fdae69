"""Any picture explained: no annotations, no audit set, no training."""
