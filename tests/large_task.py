"""A network of 550 MB, and what it takes of a worker."""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import nn

import evo
from evo.candidate import Candidate
from evo.evaluation import Evaluator, Job
from evo.testing import small_task
from evo.training import Samples


def memory_of_a_large_task(evaluator: Evaluator, *counters: str) -> float:
    """Return how many bytes more than with a small network a worker has to itself, having read all weights and data.

    Args:
        evaluator: whose worker.
        counters: of /proc/self/smaps_rollup; their sum is what a process has to itself.
    """

    @evo.fitness(maximize="own")
    def own_memory_after_use(candidate: Candidate) -> Mapping[str, float]:
        tensors = candidate.task.network._tensors.values()
        for tensor in (*tensors, candidate.task.train.x, candidate.task.val.x):
            tensor.sum()
        found = dict(line.split()[:2] for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:])
        assert int(found["Rss:"]) * 1024 > sum(tensor.nbytes for tensor in tensors)
        return {"own": 1024.0 * sum(int(found[name]) for name in counters)}

    width = 11_750
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
    model.append(nn.Linear(width, 3))
    data = Samples(torch.randn(30, 1, 4, 4), torch.arange(30) % 3)
    large = evo.Task(model, data, data)
    assert sum(tensor.nbytes for tensor in large.network._tensors.values()) > 550e6
    own = []
    for task in (small_task(), large):
        with evaluator.open(Job(task, own_memory_after_use, 0, 1, None)) as session:
            (outcome,) = session.run([task.network.full])
        assert outcome.status == "ok", outcome.reason
        own.append(outcome.objectives["own"])
    return own[1] - own[0]
