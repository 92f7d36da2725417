"""Where the blocks of a flow lead: is every target there, can every block be reached, does every loop wait?"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from dialer_engine.errors import Problem

Targets = Mapping[str, Sequence[tuple[str, str]]]  # block -> (place, target)


def shown(key: object) -> str:
    """A name of the document as it may stand in a message."""
    text = str(key)[:40]
    return text if text.isprintable() and "." not in text else ascii(text)


def problems(
    start: str | None,
    names: Sequence[str],
    targets: Targets,
    *,
    perhaps: Mapping[str, Sequence[str]],
    busy: Iterable[str],
) -> list[Problem]:
    """Everything wrong with the graph. `start` is None when it could not be read, `perhaps` holds more targets
    that count for being reached only, `busy` the blocks that neither wait for a key nor for a time."""
    missing = [
        Problem(place, f"there is no block named {target[:40]!r}")
        for leads in targets.values()
        for place, target in leads
        if target not in names
    ]
    edges = {name: [target for _, target in targets.get(name, ()) if target in names] for name in names}
    return missing + _unreached(start, names, edges, perhaps) + _restless(busy, edges)


def _unreached(
    start: str | None,
    names: Sequence[str],
    edges: Mapping[str, Sequence[str]],
    perhaps: Mapping[str, Sequence[str]],
) -> list[Problem]:
    if start is None:
        return []
    if start not in names:
        return [Problem("start", f"there is no block named {start!r}")]
    reached, todo = {start}, [start]
    while todo:
        name = todo.pop()
        new = ({*edges[name], *perhaps.get(name, ())} & set(names)) - reached
        reached |= new
        todo += new
    reason = "can never be reached: no way from the start leads here"
    return [Problem(f"blocks.{shown(name)}", reason) for name in names if name not in reached]


def _restless(busy: Iterable[str], edges: Mapping[str, Sequence[str]]) -> list[Problem]:
    """One problem for every loop that shares no block with another one found before."""
    found: list[Problem] = []
    left = dict.fromkeys(busy)
    while True:
        while ends := [name for name in left if not any(target in left for target in edges[name])]:
            for name in ends:
                del left[name]
        if not left:
            return found
        way = [next(iter(left))]
        while (onward := next(target for target in edges[way[-1]] if target in left)) not in way:
            way.append(onward)
        loop = way[way.index(onward) :]
        text = " -> ".join(shown(name) for name in [*loop, onward])
        found.append(Problem(f"blocks.{shown(onward)}", f"loops without waiting for a key or a time: {text}"))
        for name in loop:
            del left[name]
