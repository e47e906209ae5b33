"""Images for the tests of training."""

import numpy as np
import pytest

from evo.training import Samples


@pytest.fixture
def some(digits: Samples) -> Samples:
    """160 digits: five batches of 32."""
    return digits.take(np.arange(160))
