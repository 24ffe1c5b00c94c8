"""The ground floor: errors, units, seeds, files, progress, configuration and the run folder. Imports no other room."""
