"""npgen beside other libraries: speed, scaling (`python -m benchmarks.speed`), and likelihood (made_digits.py)."""
