"""How many clusters a dataset has, and what they may be called."""
