"""The field's model families: one table each, from their configuration and names to our specification and names."""
