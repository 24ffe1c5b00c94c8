"""Tokenizers: trained, extended or found, and what they make of a corpus."""
