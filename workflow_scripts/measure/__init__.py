"""What is measured of an engine: its timing and its accuracy."""
