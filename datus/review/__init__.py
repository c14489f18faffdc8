"""What people say of clusters: edits, corrections, and clusters that are kept frozen."""
