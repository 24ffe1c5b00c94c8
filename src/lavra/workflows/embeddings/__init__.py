"""Vectors of texts: opening what makes them, making them for files, and the encoder for benchmarks."""
