"""Evaluation: likelihood, retrieval and overlap measures with intervals, baselines, and paired significance tests."""
