"""Kernels: the compiled PyTorch step's products and attention, in Triton where there is a GPU.

May import models.
"""
