"""Caches: transformers' cache objects <-> flat key/value tensors <-> buffers of fixed capacity, and rewinding them.

Imports nothing of decodeloop: the lowest floor.
"""
