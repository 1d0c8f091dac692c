"""Use of trained generators: load, sample, export."""
