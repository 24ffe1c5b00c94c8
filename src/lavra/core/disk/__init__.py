"""What lies on disk: files whole or absent, locks, lines of JSON, and the run folder."""
