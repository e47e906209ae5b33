"""What is written at axes and in tables for a column whose name does not say it."""

LABELS = {
    "params": "parameters",
    "weights": "weights",
    "macs": "multiply-accumulates",
    "bytes": "bytes of parameters",
    "feature_maps": "values in feature maps",
    "peak_memory": "peak bytes of activations",
    "latency_ms": "latency, ms",
}


def label(name: str, maximized: bool | None = None, *extra: str) -> str:
    """Return what an axis for an objective or cost says: its name, extras, and the direction that is better."""
    better = [] if maximized is None else [f"{'more' if maximized else 'less'} is better"]
    notes = [*extra, *better]
    return LABELS.get(name, name) + (f" ({', '.join(notes)})" if notes else "")
