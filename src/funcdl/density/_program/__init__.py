"""Flatten a jaxpr into a list of equations and cut it into segments."""
