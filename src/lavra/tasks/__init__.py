"""Tasks: what can be learned from which rows, one file each, and the table of them."""
