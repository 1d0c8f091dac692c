"""What a sweep decides and reports, as pure functions: draws, scores, tables and plots. Knows nothing of Ray."""
