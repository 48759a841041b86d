"""Adapters, with one file per framework."""
