"""Models with a head for labels: measured and used on rows that are given."""
