"""What is learned: objectives turn rows into batches and batches into losses."""
