"""Search: document collections, document expansion, the BM25 index, and the retrieval experiment."""
