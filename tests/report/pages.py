"""Small searches to write pages about, and a reader of pages."""

from collections.abc import Mapping
from html.parser import HTMLParser
from pathlib import Path

import evo
from evo.fitness import Fitness
from evo.testing import small_task

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"
"""What a fitness may print, raise, and be called."""


@evo.fitness(maximize="wi<d>th", minimize=("error", "params"))
def judged(candidate: evo.Candidate) -> Mapping[str, float]:
    kept = sum(candidate.blueprint.counts.values())
    if kept % 5 == 0:
        print(EVIL)
        raise ValueError(EVIL)
    if kept % 7 == 0:
        raise OSError("no such number")
    return {"wi<d>th": kept, "error": float(candidate.rng().random()) / kept}


def search(folder: Path, seed: int = 0, fitness: Fitness = judged, generations: int = 3) -> evo.Run:
    return evo.search(
        small_task(),
        encoding=evo.FilterBits(),
        fitness=fitness,
        algorithm=evo.NSGA2(generations=generations, population=20),
        evaluator=evo.LocalEvaluator(workers=0, retries=0),
        out=folder,
        seed=seed,
    )


def make_unfinished(folder: Path) -> None:
    """Let the search have more to do, as one that was interrupted."""
    settings = folder / "run.toml"
    text = settings.read_text()
    assert "rounds = 1\n" in text
    settings.write_text(text.replace("rounds = 1\n", "rounds = 9\n"))


class Page(HTMLParser):
    """What a page consists of.

    Attributes:
        scripts: (attributes, content) of every one.
        tags: (name, attributes) of every one.
        text: all text outside of scripts and styles.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(convert_charrefs=True)
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self._inside = ""
        self.feed(path.read_text(encoding="utf-8"))
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "script":
            attributes, content = self.scripts[-1]
            self.scripts[-1] = attributes, content + data
        elif self._inside != "style":
            self.text += data

    def attributes(self, tag: str, name: str) -> list[str]:
        """Return the values that an attribute has in all tags of a kind."""
        return [str(attributes[name]) for kind, attributes in self.tags if kind == tag and name in attributes]
