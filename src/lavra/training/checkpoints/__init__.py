"""Checkpoints: whole or absent, checked when written and when read."""
