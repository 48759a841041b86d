"""A function as a flat list of steps, and what is known before it runs."""
