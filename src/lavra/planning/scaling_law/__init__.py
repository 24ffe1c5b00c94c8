"""Scaling laws and learning curves: forecasts of the loss from past runs and from the curve of a run in progress."""
