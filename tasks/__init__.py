"""The stages: one command a file."""
