"""The data of a request, prepared for training."""
