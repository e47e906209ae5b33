from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from evo.errors import SettingsError
from evo.report.ocnna import plot_sensitivity
from evo.report.plots import save_figure

TABLE = pd.DataFrame({"k": [60.0, 0.0, 40.0], "rpr": [0.2, 1.0, 0.4], "error": [0.5, 0.1, 0.15]})


def test_accuracy_and_size_over_the_percentile(tmp_path: Path) -> None:
    figure = plot_sensitivity(TABLE, 0.1)
    accuracy, size = figure.axes
    (curve, original), (remaining,) = accuracy.get_lines(), size.get_lines()
    points = {line.get_label(): np.asarray(line.get_path().vertices) for line in (curve, original, remaining)}
    np.testing.assert_allclose(points["accuracy"], [[0, 90], [40, 85], [60, 50]])
    np.testing.assert_allclose(points["original network"][:, 1], [90, 90])
    np.testing.assert_allclose(points["remaining parameters"], [[0, 100], [40, 40], [60, 20]])
    assert save_figure(figure, tmp_path / "sensitivity.png").stat().st_size > 10_000


def test_a_column_that_is_missing_is_named() -> None:
    with pytest.raises(SettingsError, match=r"unknown column 'test_error'.*error"):
        plot_sensitivity(TABLE, error="test_error")
