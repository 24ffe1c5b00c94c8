"""Models of `transformers` with the contract of every model: decoders, encoders and encoder-decoders."""
