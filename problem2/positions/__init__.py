"""Positional encodings: the interface that all have, and those that know distances alone.

May import nothing of the project. `positional_encoding.py` has the encodings that number the positions, and the table
of all.
"""
