"""Decoding: the loop apart from any engine. The prompt, how a token is chosen, when a row stops, guesses ahead.

Imports nothing of decodeloop: the lowest floor.
"""
