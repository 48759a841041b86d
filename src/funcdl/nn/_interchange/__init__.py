"""Files and foreign layouts."""
