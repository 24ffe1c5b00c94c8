"""Documents into better search: query generators, expansion, index, experiment."""
