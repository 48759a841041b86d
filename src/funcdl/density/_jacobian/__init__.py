"""Compute the log-determinant of a segment from the structure of its Jacobian."""
