"""Opening models by their location, and the base model of a training run."""
