"""How good samples are: pure functions of features, probabilities, labels and points, summed in float64."""
