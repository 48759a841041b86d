"""Operators with a closed-form ``solve`` and ``logdet``."""
