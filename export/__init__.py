"""Trained networks -> files that a runtime executes."""
