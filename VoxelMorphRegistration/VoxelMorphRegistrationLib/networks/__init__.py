"""Networks and their files: the U-Net, model cards, loading and running, the shipped ones, imports from elsewhere."""
