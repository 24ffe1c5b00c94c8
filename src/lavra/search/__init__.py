"""Search: document collections, analyzers, the BM25 index, filtering of generated queries, the retrieval experiment."""
