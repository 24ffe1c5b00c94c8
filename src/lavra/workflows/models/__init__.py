"""Models by where they are, and the model that a training goes on from."""
