"""Training: the loop, the update chain, optimisers, schedules, precision, checkpoints, devices and ranks."""
