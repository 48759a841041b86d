"""Krylov methods for ``A x = b``."""
