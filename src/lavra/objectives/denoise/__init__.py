"""Denoising: a part of a text is hidden and predicted from the rest, as patterns (which part) times layouts (how)."""
