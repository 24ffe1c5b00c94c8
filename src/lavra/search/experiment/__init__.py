"""The retrieval experiment: whether expansion helps a collection, beside its baselines."""
