"""Frozen models: which there are, where their weights lie, and one forward pass of any of them."""
