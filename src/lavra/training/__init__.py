"""Training: loop, updates, optimisers, schedules, precision, checkpoints, devices and distributed training."""
