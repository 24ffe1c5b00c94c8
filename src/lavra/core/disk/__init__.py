"""What lies on disk: files and folders that are written atomically, locks, JSON lines, and the run folder."""
