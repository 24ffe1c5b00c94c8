"""The retrieval experiment: whether document expansion helps on a collection, compared with baselines."""
