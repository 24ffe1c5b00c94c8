"""Linear models of text on TF-IDF features, which train in seconds and need no torch: the bar for every other model."""
