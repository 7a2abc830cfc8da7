"""Answering requests with a registered recommender."""
