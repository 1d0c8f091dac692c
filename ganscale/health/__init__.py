"""What is wrong with a run, what is done about it, and the statistics that show it."""
