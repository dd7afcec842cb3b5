"""Dense states: dynamax's functions, rebuilt."""
