"""Treat a loop, a branch or a call with a user's rule as one equation of the chain rule."""
