"""Training: target fine-tuning, top-K cache, alignment losses, draft alignment."""
