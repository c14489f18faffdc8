"""The method of the paper and its evaluation: arrays in, arrays out; no files."""
