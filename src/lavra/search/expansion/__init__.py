"""Document expansion: queries that a model writes for documents."""
