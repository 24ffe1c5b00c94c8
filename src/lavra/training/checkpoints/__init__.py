"""Checkpoints: complete or absent, and verified when they are written and when they are read."""
