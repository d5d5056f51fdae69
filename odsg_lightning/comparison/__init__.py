"""Explainers side by side: the same anchors or regions explained by each of them, every map measured alike."""
