"""The foundation: errors, units, seeds, files, progress, configurations, the run folder. It imports no other room."""
