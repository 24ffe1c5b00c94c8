"""Optimisers (AdamW, Muon) and learning-rate schedules."""
