"""Models that learn masks or imperfect labels, and draw them on new images."""
