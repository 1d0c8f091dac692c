"""Where a run's processes are started and kept together. The only package that imports ray."""
