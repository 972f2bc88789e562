"""Proof: what is written has been run beside the model first. The export that users call, and its check.

May import all other floors: the roof.
"""
