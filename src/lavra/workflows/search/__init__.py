"""Search: training query generators, expanding documents, indexing, searching, and the retrieval experiment."""
