"""Sweeps: training runs that differ in some options, of which the best is found."""
