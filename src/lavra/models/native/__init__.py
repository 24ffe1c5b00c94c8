"""The decoder of our own: its layers, its step of generation, its start from counts, and its files."""
