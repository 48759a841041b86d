"""The operator itself: its algebra, how one is built, what it returns."""
