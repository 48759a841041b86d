"""Eigenpairs from products."""
