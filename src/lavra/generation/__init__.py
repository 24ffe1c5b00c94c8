"""Generation: options, logits filters, and the decoding loop with its cache."""
