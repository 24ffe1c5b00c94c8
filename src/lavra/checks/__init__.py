"""The battery that proves a training set-up right on the user's own model and data."""
