"""Hardware: its peak performance, and the FLOPs, memory and speed of a training step on it."""
