"""Export: a transformers decoder to an ONNX file, by tracing it or put together from fused operators; fewer bits.

May import models and caches.
"""
