"""The dense side of an index: vectors of its texts beside the postings, and searching them."""
