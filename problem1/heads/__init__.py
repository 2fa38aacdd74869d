"""What analyze.py measures with: maps of the heads, ablation, pruning, and what holds a carry."""
