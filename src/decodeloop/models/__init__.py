"""Models: load one with its tokenizer, from the package, a folder or the hub; what its layers are made of.

Imports nothing of decodeloop: the lowest floor.
"""

from decodeloop.models.load import BUNDLED

__all__ = ["BUNDLED"]
