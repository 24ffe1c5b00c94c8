"""Knowing before spending: what a training will take and bring."""
