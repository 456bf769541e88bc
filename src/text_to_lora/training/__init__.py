"""Tasks to trained weights: run configuration, data, losses and supervised training."""
