"""``fit``: the compiled loop and the host code around it."""
