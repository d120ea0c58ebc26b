"""The mistakes that a diagnosis knows, one file for each kind."""
