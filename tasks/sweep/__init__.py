"""Methods times settings, each experiment in a checkout of its own, with a table that compares them."""
