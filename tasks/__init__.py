"""The stages, one command per file, and the workflows around them, one package each."""
