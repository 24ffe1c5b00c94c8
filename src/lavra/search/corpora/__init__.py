"""Collections of documents, their judged queries, and where they are found."""
