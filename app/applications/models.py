"""The table of applications."""
