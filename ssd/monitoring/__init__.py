"""What a person sees while a network trains: TensorBoard, the terminal, metrics.csv."""
