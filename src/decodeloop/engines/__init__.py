"""Engines: what runs a model step by step, on PyTorch and on ONNX Runtime, and where its cache lies meanwhile.

May import models, caches, decoding and export.
"""
