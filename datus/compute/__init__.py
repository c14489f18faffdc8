"""Arithmetic on this machine: threads, memory, compiled loops, oneDNN, float16."""
