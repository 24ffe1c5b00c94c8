"""What changes a model between opening it and training it: adapters, freezing, quantised bases, checkpointing."""
