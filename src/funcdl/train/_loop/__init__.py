"""``fit``: the compiled loop and the host around it."""
