"""The search index: BM25 over documents and their generated queries, in one folder."""
