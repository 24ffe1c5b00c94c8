"""Models of `transformers` behind the model contract: decoders, encoders and encoder-decoders, trained by the same loop."""
