"""Faster ways to compute a step: compiled, proved against the plain way, and left where they fail."""
