"""What analyze.py measures with: test sets and accuracy by length, controls, figures."""
