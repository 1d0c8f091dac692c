"""How good a generator is: metrics, the evaluator and comparisons of runs."""
