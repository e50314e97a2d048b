"""Measurement of an engine: its timing and its accuracy."""
