"""Run folders on a disk or an object store: files whole or not at all, found by content."""
