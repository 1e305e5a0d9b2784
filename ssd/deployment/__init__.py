"""ONNX: export, comparison with PyTorch, quantization, other runtimes, timing."""
