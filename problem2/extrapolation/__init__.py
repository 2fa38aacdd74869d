"""What a trained model does beyond its lengths, and why: tests, the study of variants, the shortcut, the proof, and
figures.

May import `learning` and all that `learning` may import; is imported by the commands alone.
"""
