"""The uses of parameters in a jaxpr."""
