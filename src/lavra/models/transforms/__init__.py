"""Changes of a model between opening and training it: adapters, freezing, quantised bases, gradient checkpointing."""
