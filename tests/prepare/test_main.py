"""The command line of `ganscale prepare`."""

import pytest

from ganscale.prepare.__main__ import main, make_parser


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("--resolution 64 src out", ([64], "src", "out")),
        ("--resolution 48 64 src out", ([48, 64], "src", "out")),
        ("src out --resolution 64", ([64], "src", "out")),
        ("src out --resolution 48 64", ([48, 64], "src", "out")),
        ("src --resolution 48 64 out --workers 2", ([48, 64], "src", "out")),
        ("--resolution 64 2024 out", ([64], "2024", "out")),
        ("2024 --resolution 64 2025", ([64], "2024", "2025")),
        ("--resolution 48 64 2024 2025", ([48, 64], "2024", "2025")),
        ("src out", (None, "src", "out")),
    ],
)
def test_the_resolution_is_one_number_or_two_at_any_place(words: str, expected: tuple[object, str, str]) -> None:
    found = make_parser().parse_intermixed_args(words.split())
    assert (found.resolution, found.source, found.out) == expected


@pytest.mark.parametrize(
    ("words", "named"),
    [
        ("src out --resolution", "--resolution"),
        ("src out --resolution big", "'big' is no number"),
        ("src --resolution 64", "OUT"),
        ("a b c --resolution 64", "c"),
    ],
)
def test_other_numbers_of_words_are_refused(words: str, named: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(words.split())
    assert named in capsys.readouterr().err.splitlines()[-1]
