"""Models: the decoder specification and its layers, presets, edits, and weights in and out."""
