"""Workflows: plain functions that put the rooms to one use each; the Python API is made of these."""
