"""What is known of each jax primitive: derivatives, bounds, inverses, sparsity."""
