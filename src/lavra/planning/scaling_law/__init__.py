"""The scaling law: what loss a model reaches on how much text, from past runs and from the run's own curve."""
