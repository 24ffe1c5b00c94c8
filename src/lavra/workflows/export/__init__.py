"""Exporting models in the formats of other libraries, each with the proof that it is the same model."""
