"""Generation: decoding strategies, logits filters, constraints, scoring of options, and the engines that run them."""
