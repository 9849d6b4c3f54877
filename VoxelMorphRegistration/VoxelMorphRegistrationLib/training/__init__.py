"""Training: random shapes, the trainer and its commands. Nothing here is needed to register images."""
