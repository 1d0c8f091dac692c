"""Random numbers are functions of (seed, stream, row): addressing, known answers, and statistics."""

import hashlib
import math

import pytest
import torch
from torch import Tensor

from ganscale.parallel.random import Stream, derive_seed, permutation

DRAWS = {
    "normal": lambda stream, start, stop, shape, dtype: stream.normal(start, stop, shape, dtype),
    "uniform": lambda stream, start, stop, shape, dtype: stream.uniform(start, stop, shape, dtype),
    "integers": lambda stream, start, stop, shape, _: stream.integers(start, stop, 1000, shape),
}


def splitmix64(seed: int, name: str, position: int) -> int:
    """Word `position` of a stream, written down from the paper without torch."""
    digest = hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=16).digest()
    start, whitening = (int.from_bytes(part, "little") for part in (digest[:8], digest[8:]))
    x = (start + (position + 1) * 0x9E3779B97F4A7C15) % 2**64
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 % 2**64
    x = (x ^ (x >> 27) ^ whitening) * 0x94D049BB133111EB % 2**64
    return x ^ (x >> 31)


def test_splitmix64_of_this_file_gives_the_published_sequence(monkeypatch) -> None:
    """The first outputs for seed 1234567 of Vigna's splitmix64.c (no whitening)."""

    class Fixed:
        def digest(self) -> bytes:
            return (1234567).to_bytes(8, "little") + bytes(8)

    monkeypatch.setattr(hashlib, "blake2b", lambda *_, **__: Fixed())
    expected = [6457827717110365317, 3203168211198807973, 9817491932198370423]
    assert [splitmix64(0, "", position) for position in range(3)] == expected


@pytest.mark.parametrize(("seed", "name"), [(0, "latent"), (1, "latent"), (2**62, "data/noise")])
@pytest.mark.parametrize("words", [1, 3])
def test_bits_are_splitmix64(seed: int, name: str, words: int) -> None:
    for start in (0, 5, 10**12):
        bits = Stream(seed, name).bits(start, start + 4, words)
        expected = [[splitmix64(seed, name, row * words + w) for w in range(words)] for row in range(start, start + 4)]
        assert [[word % 2**64 for word in row] for row in bits.tolist()] == expected


def test_normal_is_box_and_muller_of_the_bits() -> None:
    words = [splitmix64(4, "latent", 9 * 2 + w) for w in range(2)]
    radius = [math.sqrt(-2.0 * math.log(((word >> 40) + 0.5) / 2**24)) for word in words]
    angle = [2.0 * math.pi * (word % 2**24) / 2**24 for word in words]
    cosines = [r * math.cos(a) for r, a in zip(radius, angle, strict=True)]
    expected = torch.tensor([[*cosines, radius[0] * math.sin(angle[0])]], dtype=torch.float64)
    torch.testing.assert_close(Stream(4, "latent").normal(9, 10, (3,), torch.float64), expected, rtol=1e-13, atol=1e-13)


def test_known_answers_never_change() -> None:
    """Checkpoints rely on it: another release must draw the same numbers."""
    normal = torch.tensor([[-0.37158087886495705, 0.6163849368943932, 2.1651011922168566]], dtype=torch.float64)
    torch.testing.assert_close(Stream(0, "latent").normal(3, 4, (3,), torch.float64), normal, rtol=1e-13, atol=0.0)
    assert Stream(0, "latent").integers(3, 4, 1000, (3,)).tolist() == [[586, 803, 906]]
    assert derive_seed(0, "init/generator") == 7002408245409815800


@pytest.mark.parametrize("shape", [(), (2,), (3, 5)])
@pytest.mark.parametrize("start", [4, 10**12])
def test_ranges_at_equal_distances_are_those_ranges(start: int, shape: tuple[int, ...]) -> None:
    stream = Stream(3, "test")
    for draw in (stream.normal, stream.uniform):
        ranges = [draw(start + n * 13, start + n * 13 + 5, shape) for n in range(4)]
        assert torch.equal(draw(start, start + 5, shape, torch.float32, 4, 13), torch.cat(ranges))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape", [(), (1,), (2,), (7,), (100,), (3, 5, 5)])
@pytest.mark.parametrize("draw", DRAWS)
def test_any_slice_equals_the_rows_of_the_whole(draw: str, shape: tuple[int, ...], dtype: torch.dtype) -> None:
    """Bit for bit, from a fresh stream and from one that has been used."""
    used = Stream(7, "test")
    whole = DRAWS[draw](used, 0, 67, shape, dtype)
    assert whole.shape == (67, *shape)
    for start, stop in [(0, 1), (1, 2), (0, 67), (5, 9), (13, 50), (66, 67), (3, 36)]:
        for stream in (used, Stream(7, "test")):
            assert torch.equal(DRAWS[draw](stream, start, stop, shape, dtype), whole[start:stop]), (start, stop)


def test_no_rows_are_no_numbers() -> None:
    assert Stream(0, "test").normal(5, 5, (4,)).shape == (0, 4)


def test_both_precisions_draw_the_same_numbers() -> None:
    single, double = (Stream(3, "test").normal(0, 500, (9,), dtype) for dtype in (torch.float32, torch.float64))
    torch.testing.assert_close(single.double(), double, rtol=1e-4, atol=1e-5)


def kolmogorov_smirnov(values: Tensor, cdf: Tensor) -> float:
    """sqrt(n) times the largest gap between an empirical distribution and `cdf` of the sorted values."""
    count = values.numel()
    ramp = torch.arange(count + 1, dtype=torch.float64) / count
    return math.sqrt(count) * max((ramp[1:] - cdf).max().item(), (cdf - ramp[:-1]).max().item())


COUNT = 200_000
KS_LIMIT = 1.95  # exceeded by a true sample once in a thousand; the draws are fixed, so the test never flickers


@pytest.mark.parametrize("size", [1, 2, 5])
def test_normal_is_normal(size: int) -> None:
    x = Stream(11, "test").normal(0, COUNT // size, (size,), torch.float64).flatten().sort().values
    assert kolmogorov_smirnov(x, torch.special.ndtr(x)) < KS_LIMIT
    moments = [x.mean().item(), x.var().item(), x.pow(3).mean().item(), x.pow(4).mean().item()]
    for moment, expected, variance in zip(moments, (0.0, 1.0, 0.0, 3.0), (1.0, 2.0, 15.0, 96.0), strict=True):
        assert abs(moment - expected) < 4.0 * math.sqrt(variance / x.numel())
    assert x.abs().max() < 5.9


@pytest.mark.parametrize("size", [1, 2, 5])
def test_uniform_is_uniform(size: int) -> None:
    x = Stream(12, "test").uniform(0, COUNT // size, (size,), torch.float64).flatten().sort().values
    assert kolmogorov_smirnov(x, x) < KS_LIMIT
    assert x[0] >= 0.0
    assert x[-1] < 1.0


def test_uniform_stays_below_one_in_float32() -> None:
    x = Stream(13, "test").uniform(0, 3_000_000, (8,))
    assert 0.0 <= x.min() < 1e-6
    assert 1.0 - 1e-6 < x.max() < 1.0


@pytest.mark.parametrize("high", [1, 2, 10, 1000])
def test_integers_fill_their_range_evenly(high: int) -> None:
    counts = torch.bincount(Stream(14, "test").integers(0, COUNT, high), minlength=high).double()
    assert counts.numel() == high
    expected = COUNT / high
    chi_square = ((counts - expected).square() / expected).sum().item()
    assert chi_square <= (high - 1) + 4.0 * math.sqrt(2.0 * (high - 1))


def correlation(a: Tensor, b: Tensor) -> float:
    """In standard errors of a true zero."""
    return torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1].item() * math.sqrt(a.numel())


def draw(seed: int = 0, name: str = "test", start: int = 0) -> Tensor:
    return Stream(seed, name).normal(start, start + 20_000, (6,), torch.float64)


@pytest.mark.parametrize(
    "other",
    [draw(seed=1), draw(name="tesu"), draw(name="latent"), draw(start=1), draw(start=20_000), draw(seed=2**40)],
    ids=["seed", "letter", "stream", "next_row", "next_block", "far_seed"],
)
def test_streams_seeds_and_rows_are_uncorrelated(other: Tensor) -> None:
    """Also in their squares."""
    whole = draw()
    assert not torch.equal(whole, other)
    assert abs(correlation(whole, other)) < 4.0
    assert abs(correlation(whole.square(), other.square())) < 4.0


def test_columns_are_uncorrelated() -> None:
    x = draw()
    for values in (x, x.square()):
        matrix = torch.corrcoef(values.T) * math.sqrt(len(x))
        assert matrix.fill_diagonal_(0.0).abs().max() < 4.0


@pytest.mark.parametrize("high", [1, 10, 2**31])
def test_numbers_at_places_are_those_of_the_ranges(high: int) -> None:
    stream, far = Stream(3, "test"), 10**12
    whole = torch.cat((stream.integers(0, 50, high, (1,)), stream.integers(far, far + 50, high, (1,)))).flatten()
    places = torch.cat((torch.arange(50), torch.arange(far, far + 50)))
    shuffled = torch.tensor([99, 3, 50, 3, 0])
    assert torch.equal(stream.integers_at(places, high), whole)
    assert torch.equal(stream.integers_at(places[shuffled], high), whole[shuffled])


@pytest.mark.parametrize("size", [1, 2, 13, 60_000])
def test_permutation_is_one_and_stays_the_same(size: int) -> None:
    order = permutation(5, "data/order/0", size)
    assert torch.equal(order.sort().values, torch.arange(size))
    torch.manual_seed(99)
    assert torch.equal(permutation(5, "data/order/0", size), order)
    if size > 2:
        for seed, stream in ((5, "data/order/1"), (6, "data/order/0")):
            assert not torch.equal(permutation(seed, stream, size), order)


def test_no_global_generator_is_touched() -> None:
    before = torch.random.get_rng_state()
    Stream(0, "test").normal(0, 10, (3,))
    permutation(0, "test", 10)
    assert torch.equal(torch.random.get_rng_state(), before)
