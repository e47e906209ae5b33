"""Does 8-bit arithmetic make low-bit networks faster on this processor, and what does it cost in accuracy?

Set-up. Networks of the zoo, untrained, with weights of 4 to 8 bits, for the time, and the base network of
`benchmarks.adalayer_cifar10 --small`, for the accuracy on test images. Each is converted by `evo.quantization.int8` and
measured beside its floating-point version by `evo.network.latency`, in turn and several times, so that a change of the
machine's load meets both; the median of the ratios and their range are reported. Batches of 1 and 64, one thread, images of
3×32×32 (LeNet 1×28×28). Agreement is the share of images, random or the test images, for which both versions predict the same
class.

Outputs: a table on the screen and `benchmarks/results/int8_latency.json`. A latency holds for the machine in that file alone.

Run: `python -m benchmarks.int8_latency` (some minutes on an idle machine, and twenty to train the network unless `.cache/` has
it; `--only` does one of both and leaves the figures of the other; `--quick` shows that it runs). The images are read from the
folder `EVO_DATA`.
"""

import argparse
import json
import statistics
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

import evo
from benchmarks.adalayer_cifar10 import CACHE, Plan, quick, small, trained_base
from benchmarks.cifar10 import load_cifar10
from benchmarks.common import RESULTS, data_folder, machine, write_results
from evo.errors import NetworkError
from evo.network.latency import latency
from evo.network.zoo import ZOO
from evo.quantization.int8 import int8

NETWORKS = ("lenet", "adalayernet", "resnet20", "vgg16_cifar", "mobilenet_v2", "densenet40")
BATCHES = (1, 64)


def low_bit(model: nn.Module, images: Tensor) -> nn.Module:
    """Return the network with weights of 4, 5, …, 8, 4, … bits, layer by layer."""
    network = evo.Network.analyse(model, images[:2])
    bits = {name: 4 + index % 5 for index, name in enumerate(network.quantisable)}
    return network.build(network.full.with_bits(bits))


def compare(model: nn.Module, converted: nn.Module, images: Tensor, *, rounds: int, seconds: float) -> dict[str, Any]:
    """Return milliseconds of both versions and their ratio, by batch size."""
    found: dict[str, Any] = {}
    for batch in BATCHES:
        pairs = [
            tuple(latency(each, images, batch=batch, seconds=seconds).median for each in (model, converted))
            for _ in range(rounds)
        ]
        ratios = [before / after for before, after in pairs]
        found[str(batch)] = {
            "float_ms": statistics.median(before for before, _ in pairs),
            "int8_ms": statistics.median(after for _, after in pairs),
            "speedup": statistics.median(ratios),
            "lowest": min(ratios),
            "highest": max(ratios),
        }
    return found


def agreement(model: nn.Module, converted: nn.Module, images: Tensor) -> float:
    """Return the share of images of which both say the same, in [0, 1]."""
    with torch.inference_mode():
        same = [(model(part).argmax(1) == converted(part).argmax(1)) for part in torch.split(images, 500)]
    return float(torch.cat(same).float().mean())


def measured(name: str, *, briefly: bool) -> dict[str, Any]:
    """Return the figures of a network of the zoo with random weights; a reason if it cannot be converted."""
    torch.manual_seed(0)
    images = torch.randn(128, *((1, 28, 28) if name == "lenet" else (3, 32, 32)))
    model = low_bit(ZOO[name](), images)
    try:
        converted = int8(model, images)
    except NetworkError as error:
        return {"refused": str(error)}
    rounds, seconds = (1, 0.2) if briefly else (5, 3.0)
    return {
        **compare(model, converted, images, rounds=rounds, seconds=seconds),
        "agreement": agreement(model, converted, images),
    }


def accuracies(plan: Plan, console: Console) -> dict[str, float]:
    """Return the test accuracy of the trained eight-layer network: as it is, with few bits, and in 8-bit arithmetic."""
    data = load_cifar10(data_folder(), plan.images)
    whole = trained_base(plan, data, "cpu", console)
    rounded = low_bit(whole, data["train"].x[:2])
    converted = int8(rounded, data["train"].x[:500])
    versions = {"float32": whole, "4 to 8 bits": rounded, "the same in int8": converted}
    found = {name: 1 - evo.error_rate(model, data["test"]) for name, model in versions.items()}
    return {**found, "agreement": agreement(rounded, converted, data["test"].x)}


def table(results: dict[str, dict[str, Any]]) -> Table:
    """Return the latencies as a table."""
    shown = Table(
        title="One thread, milliseconds per batch: floating point, 8-bit integers, and how much faster (range)"
    )
    for column in ("network", *(f"batch {batch}" for batch in BATCHES), "same class"):
        shown.add_column(column, justify="left" if column == "network" else "right")
    for name, figures in results.items():
        if "refused" in figures:
            shown.add_row(name, figures["refused"])
            continue
        cells = [
            f"{entry['float_ms']:.2f} → {entry['int8_ms']:.2f}, {entry['speedup']:.2f}× "
            f"({entry['lowest']:.2f}–{entry['highest']:.2f})"
            for entry in (figures[str(batch)] for batch in BATCHES)
        ]
        shown.add_row(name, *cells, f"{figures['agreement']:.1%}")
    return shown


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="a minute that proves nothing; writes no results")
    parser.add_argument("--only", choices=("latency", "accuracy"))
    options = parser.parse_args()
    console = Console(width=150)
    CACHE.mkdir(parents=True, exist_ok=True)
    path = RESULTS / "int8_latency.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if options.only != "accuracy":
        names = NETWORKS[:3] if options.quick else NETWORKS
        engines = [name for name in torch.backends.quantized.supported_engines if name != "none"]
        networks = {name: measured(name, briefly=options.quick) for name in names}
        console.print(table(networks))
        found |= {"machine": machine(), "engines": engines, "networks": networks}
    if options.only != "latency":
        accuracy = accuracies(quick(Plan()) if options.quick else small(Plan()), console)
        console.print(", ".join(f"{name}: {share:.2%}" for name, share in accuracy.items()))
        found["accuracy"] = {"machine": machine(), **accuracy}
    if not options.quick:
        console.print(f"written to {write_results('int8_latency', found)}")


if __name__ == "__main__":
    main()
