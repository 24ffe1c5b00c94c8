"""Readers turn everything that a person can name as data into documents and rows."""
