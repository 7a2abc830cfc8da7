"""Ranking metrics, speed measurement, statistics, baselines without an LLM, and the report."""
