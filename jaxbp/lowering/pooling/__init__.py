"""The sums of pooling and their adjoints, one file a strategy."""
