"""The operator itself: its algebra, how one is built, its results."""
