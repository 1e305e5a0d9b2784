"""What is wrong with a dataset, and what the priors can match of it."""
