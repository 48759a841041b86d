"""The inverse of a program."""
