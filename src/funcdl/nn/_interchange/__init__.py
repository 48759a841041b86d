"""Files, and the layouts of other frameworks."""
