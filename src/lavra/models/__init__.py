"""Models: their contract, the decoder of our own, transforms, families, and every model of `transformers`."""
