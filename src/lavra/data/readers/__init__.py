"""Readers: everything a person can name as data becomes rows and documents."""
