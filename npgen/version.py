"""The version of npgen, read by setup.py and written into every file."""
__version__ = "0.1.0"
