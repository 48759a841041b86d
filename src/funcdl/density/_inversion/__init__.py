"""Invert a program by propagation and Newton steps, and decide whether it is injective."""
