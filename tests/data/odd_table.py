"""All odd inputs as the table of docs/data.md."""

from tests.data.odd_inputs import COLORS, CONTENTS, FILES, LABELS, SHAPES, ZIPS
from tests.data.odd_shards import PARQUETS, TARS

TABLE = {
    "Color and depth": COLORS,
    "Size and orientation": SHAPES,
    "Content": CONTENTS,
    "Files": FILES,
    "Classes": LABELS,
    "Zips": ZIPS,
    "Tars": TARS,
    "Parquet": PARQUETS,
}
"""Cases by section of the page."""


def markdown() -> str:
    """The table of docs/data.md; `python -m tests.data.odd_table` prints it."""
    lines = ["| | input | outcome |", "| --- | --- | --- |"]
    for section, cases in TABLE.items():
        for index, case in enumerate(cases):
            lines.append(f"| {'' if index else section} | {case.text} | {case.outcome} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(markdown(), end="")
