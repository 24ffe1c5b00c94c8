"""Objectives of embeddings: vectors of whole texts, from pairs, scores, margins, or bare text."""
