"""What goes beyond the assignment; nothing of the assignment needs it.

When it is imported, the core's tables get its encodings, poolings and model.
"""

from beyond import encodings, poolings, scaling
from model import MODELS, POOLINGS
from positional_encoding import ENCODINGS

ENCODINGS.update(
    sinusoidal_offset=encodings.SinusoidalOffsetEncoding,
    learned_offset=encodings.LearnedOffsetEncoding,
    random_positions=encodings.RandomPositionsEncoding,
    rotary=encodings.RotaryEncoding,
    alibi_symmetric=encodings.SymmetricALiBi,
    alibi_directed=encodings.DirectedALiBi,
    relative_bias=encodings.RelativeBias,
    relative_keys=encodings.RelativeKeys,
    local_bias=encodings.LocalBias,
    causal=encodings.CausalEncoding,
)
POOLINGS.update(
    max=poolings.MaxPooling,
    lowest=poolings.LowestPooling,
    attention=poolings.AttentionPooling,
    differences=poolings.DifferencesPooling,
    five_features=poolings.FiveFeaturesPooling,
)
MODELS.update(ScaledClassifier=scaling.ScaledClassifier)
