"""What this machine can do: FLOPs, memory, and steps timed or rehearsed."""
