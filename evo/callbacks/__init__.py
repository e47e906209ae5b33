"""What follows a search: `evo.search(…, callbacks=[…])`; `CALLBACKS` names those that a run.toml can::

    class Print(evo.callbacks.Callback):
        def on_generation(self, statistics, progress):
            print(statistics["generation"], statistics["max"])

`TensorBoard` and `MLflow` show a search beside others; they need packages that evo does without.
"""

from evo.callbacks.base import Callback, Progress
from evo.callbacks.mlflow import MLflow
from evo.callbacks.tensorboard import TensorBoard
from evo.plugins import Registry, reference_to


def _complaint(found: object) -> str | None:
    fits = isinstance(found, Callback) or (isinstance(found, type) and issubclass(found, Callback))
    return None if fits else f"expected a subclass of {reference_to(Callback).replace(':', '.')}, or an object of one"


CALLBACKS: Registry[type[Callback] | Callback] = Registry(
    "callback", "evo.callbacks", {"tensorboard": TensorBoard, "mlflow": MLflow}, _complaint
)

__all__ = ["CALLBACKS", "Callback", "MLflow", "Progress", "TensorBoard"]
