"""What the attention heads do: their names and how to change them, maps, ablation, pruning, interchange of carries.

May import `learning`, `model`, `attention`, `dataset` and `support`; is imported by the commands alone.
"""
