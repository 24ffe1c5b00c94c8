"""Reports: tables for the terminal, the HTML page of a run, and the comparison of runs."""
