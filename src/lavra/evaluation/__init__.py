"""Evaluation: likelihood with intervals, yardsticks on the same bytes, and the tables that show them."""
