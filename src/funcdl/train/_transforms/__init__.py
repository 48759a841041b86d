"""Transforms of objectives and programs."""
