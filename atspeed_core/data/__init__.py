"""Interaction sources -> validated, split sequences."""
