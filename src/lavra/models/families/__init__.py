"""Families of architectures: a table each, which maps configuration and tensor names to our specification and names."""
