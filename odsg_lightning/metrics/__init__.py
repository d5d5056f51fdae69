"""What is measured on a saliency map: functional forms and torchmetrics classes."""
