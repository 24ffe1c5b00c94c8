"""Models of `transformers` behind the model contract: decoders, encoders and encoder-decoders for the same loop."""
