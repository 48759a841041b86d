"""Functions from pair to pair."""
