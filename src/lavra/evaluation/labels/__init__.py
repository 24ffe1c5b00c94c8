"""What a table of predictions says about labels: metrics, calibration, thresholds, ensembles, label errors, tests."""
