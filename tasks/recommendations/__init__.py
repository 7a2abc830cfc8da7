"""Top-K lists of the champion for every user, shard by shard."""
