"""Decoding: beam search, drafters, tree attention, verification, speculative search."""
