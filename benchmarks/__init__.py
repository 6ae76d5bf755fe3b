"""Every figure that the README or an issue states, each reproducible with one command.

``python -m benchmarks NAME`` (`make bench NAME=...`) runs one; ``benchmarks.demo`` is `make demo`.
"""
