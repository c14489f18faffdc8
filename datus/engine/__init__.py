"""Shards through stages: what is missing, where it runs, what survives a kill. Knows no pixels."""
