"""Training speed of ganscale compared with hand-written loops: `python -m benchmarks.speed`."""
