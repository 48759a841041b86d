"""Exact algebra of the elementwise parts of a program, which removes cancellation."""
