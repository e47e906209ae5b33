"""Which filters matter: scores per channel of every coupling group, choices of filters, and how wide each layer starts."""

from evo.importance.criteria import CRITERIA, Criterion, Material, criterion
from evo.importance.importance_matrix import ImportanceMatrix, importance_matrix
from evo.importance.magnitude import magnitude
from evo.importance.ocnna import ocnna_scores
from evo.importance.percentiles import structures
from evo.importance.selection import FilterSelection

__all__ = [
    "CRITERIA",
    "Criterion",
    "FilterSelection",
    "ImportanceMatrix",
    "Material",
    "criterion",
    "importance_matrix",
    "magnitude",
    "ocnna_scores",
    "structures",
]
