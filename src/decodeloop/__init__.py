"""decodeloop: decode loops for large language models, on PyTorch and ONNX Runtime."""
