"""Collections of documents with queries and relevance judgements, and the formats that they are read from."""
