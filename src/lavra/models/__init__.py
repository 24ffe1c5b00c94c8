"""Models: their contract, our own decoder, transforms, families of architectures, and the models of `transformers`."""
