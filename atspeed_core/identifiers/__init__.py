"""Item embeddings, their quantisation to code tuples, the catalog of items and its trie."""
