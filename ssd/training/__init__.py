"""Training: the LightningModule, the run folder, resume, TensorBoard."""
