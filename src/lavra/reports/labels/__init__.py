"""The sections of a page about the labels that a model predicted."""
