"""Plans: what a training run will take and reach, before anything is spent."""
