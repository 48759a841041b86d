"""How a jaxpr uses parameters."""
