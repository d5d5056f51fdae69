"""Fine-tuning with Lightning: the module, the data and the audit callback."""
