"""Examples: rows with a part to learn and a part that is only read."""
