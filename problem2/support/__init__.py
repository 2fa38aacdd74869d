"""What every command needs and no subject owns: options and errors, files, digests, lines of input, figures.

May import nothing of the project. This folder is the same in both problems, byte for byte.
"""
