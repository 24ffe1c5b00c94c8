"""Knowing beforehand: hardware, FLOPs, time, and the choice of model and schedule for a budget."""
