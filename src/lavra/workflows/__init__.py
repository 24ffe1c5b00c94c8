"""Workflows: plain functions, one for each use of the other packages; the command line and the Python API call them."""
