"""Models for the rest of the field, with the proof that they are the same."""
