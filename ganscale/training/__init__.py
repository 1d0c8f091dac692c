"""The synchronized update, the loop around it, and how a config becomes their objects."""
