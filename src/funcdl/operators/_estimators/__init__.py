"""Stochastic estimates of traces, diagonals, densities and determinants."""
