"""Tools for runs that break."""
