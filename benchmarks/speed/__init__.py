"""How fast the core trains, next to loops that one would write by hand: `python -m benchmarks.speed`."""
