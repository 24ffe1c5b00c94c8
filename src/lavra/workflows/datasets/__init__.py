"""What a request names as data, made ready for training."""
