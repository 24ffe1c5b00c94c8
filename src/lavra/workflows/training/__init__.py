"""Training: from a request to a trained and measured model in the folder of a run."""
