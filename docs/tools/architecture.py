"""The picture of the packages, drawn from `ORDER` of tests/test_floors.py, the list that the tests hold."""

from collections.abc import Iterator
from xml.sax.saxutils import escape

from tests.test_floors import ORDER, PLACES

WIDTH, MARGIN, FLOOR, GAP, ROOF = 960, 24, 62, 10, 54
CONTENT = {
    "sweep": "hyperparameter sweeps on Ray Tune",
    "launch": "Ray Train, torchrun, one process; elastic groups; the doctor",
    "run": "one replica: session, recovery, checkpoints, health",
    "report": "the HTML report",
    "prepare": "pictures to shards",
    "cli": "words, exit codes",
    "inference": "load, sample, export",
    "evaluation": "metrics, the evaluator, asynchronous evaluation",
    "training": "the update, the loop, schedules; from a config to objects",
    "tracking": "console, run folder, W&B, TensorBoard",
    "health": "detectors and the response to them",
    "models": "networks, layers",
    "losses": "objectives, penalties",
    "data": "data sets, order",
    "storage": "run folders and buckets, checkpoints, leases",
    "parallel": "replicas, collectives, random numbers, shards",
    "config": "every setting; imports no torch",
}
FLOORS = (
    ("sweep",),
    ("launch",),
    ("run",),
    ("report", "prepare", "cli", "inference"),
    ("evaluation",),
    ("training",),
    ("tracking", "health"),
    ("models", "losses", "data"),
    ("storage",),
    ("parallel",),
    ("config",),
)
"""The packages below the commands, from top to bottom; those of a floor stand side by side."""
COLORS = ("#e8eefc", "#e4f3ec", "#fdf1e0", "#f6e9f3")
STYLE = (
    "text{font-family:system-ui,-apple-system,'Segoe UI',Roboto,Helvetica,Arial,sans-serif;fill:#1b1f24}"
    ".name{font-size:17px;font-weight:600}.what{font-size:13px;fill:#4a5561}.tag{font-size:12px;font-weight:600;fill:#8a4b00}"
)


def drawing() -> str:
    """The picture as SVG.

    Raises:
        ValueError: the floors are not the order that the tests hold.
    """
    below = tuple(name for floor in FLOORS for name in floor)
    commands = ORDER[: len(ORDER) - len(below)]
    if (*commands, *below) != ORDER:
        raise ValueError(f"FLOORS has {below}, but tests/test_floors.py has {ORDER}")
    right = WIDTH - MARGIN
    height = 2 * MARGIN + ROOF + (len(FLOORS) + 1) * (FLOOR + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" role="img" '
        'aria-label="The packages of ganscale: each imports only packages below it">',
        f"<style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" rx="8" fill="#ffffff"/>',
        f'<path d="M {MARGIN} {MARGIN + ROOF} L {WIDTH / 2} {MARGIN} L {right} {MARGIN + ROOF} Z" fill="#3f51b5"/>',
        f'<text x="{WIDTH / 2}" y="{MARGIN + ROOF - 12}" text-anchor="middle" class="name" '
        'style="fill:#fff">ganscale</text>',
    ]
    y = MARGIN + ROOF + GAP
    parts += _box(MARGIN, y, WIDTH - 2 * MARGIN, "commands", ", ".join(commands), COLORS[0], "")
    for number, floor in enumerate(FLOORS, start=1):
        y += FLOOR + GAP
        width = (WIDTH - 2 * MARGIN - GAP * (len(floor) - 1)) / len(floor)
        for place, name in enumerate(floor):
            x = MARGIN + place * (width + GAP)
            parts += _box(x, y, width, f"{name}/", CONTENT[name], COLORS[number % len(COLORS)], _tag(name))
    return "\n".join([*parts, "</svg>"]) + "\n"


def _tag(name: str) -> str:
    """The library that this package alone may import, or with few others."""
    found = [library for library, places in PLACES.items() if any(p.partition(".")[0] == name for p in places)]
    return ", ".join(library for library in found if library != "argparse")


def _box(x: float, y: float, width: float, name: str, what: str, color: str, tag: str) -> Iterator[str]:
    middle = x + width / 2
    yield f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{FLOOR}" rx="4" fill="{color}" stroke="#b8c0cc"/>'
    yield f'<text x="{middle:g}" y="{y + 26:g}" text-anchor="middle" class="name">{escape(name)}</text>'
    yield f'<text x="{middle:g}" y="{y + 47:g}" text-anchor="middle" class="what">{escape(what)}</text>'
    if tag:
        yield f'<text x="{x + width - 12:g}" y="{y + 20:g}" text-anchor="end" class="tag">{escape(tag)}</text>'
