"""Using a model: writing, scoring, explaining, asking itself."""
