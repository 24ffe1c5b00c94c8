"""The index: BM25 over documents and the queries generated for them, in one folder."""
