"""Tokenizers: training, extending and reading them, and measuring how they fit a corpus."""
