"""Loops, branches and user rules as one step."""
