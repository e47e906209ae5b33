"""Which filters matter: scores per channel of every coupling group, choices of filters, and how wide each layer starts."""

from evo.importance.importance_matrix import ImportanceMatrix, importance_matrix
from evo.importance.magnitude import magnitude
from evo.importance.ocnna import ocnna_scores
from evo.importance.percentiles import structures
from evo.importance.selection import METHODS, FilterSelection, Scores

__all__ = [
    "METHODS",
    "FilterSelection",
    "ImportanceMatrix",
    "Scores",
    "importance_matrix",
    "magnitude",
    "ocnna_scores",
    "structures",
]
