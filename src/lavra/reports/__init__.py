"""What is shown of a run: tables for the terminal, the page of a run, the comparison of runs."""
