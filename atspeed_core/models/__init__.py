"""Models: tokenizers, prompts, building, loading and saving."""
