"""What helps when a run breaks."""
