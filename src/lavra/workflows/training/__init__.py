"""The training job: from a request to a trained, measured model in a run folder."""
