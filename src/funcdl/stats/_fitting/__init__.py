"""The iterations that fit a family to data, their derivatives and the parameters they act on."""
