"""What the assignment does not ask for: see README.md, or run `python problem1/beyond`.

To import it adds its models to `model.MODELS`, so that `model.load_model` finds them.
"""

from beyond.columns import ColumnTransformer
from beyond.learned import LearnedTransformer
from beyond.local import LocalTransformer
from model import MODELS, Seq2SeqTransformer

POSITIONS = {
    "sinusoidal": Seq2SeqTransformer,
    "learned": LearnedTransformer,
    "columns": ColumnTransformer,
}
MODELS.update({kind.__name__: kind for kind in [*POSITIONS.values(), LocalTransformer]})
