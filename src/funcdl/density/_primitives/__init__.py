"""Derivatives, bounds, inverses and sparsity of each jax primitive."""
