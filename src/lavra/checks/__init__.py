"""Checks of a training set-up, run on the model and the data of the user before the first step."""
