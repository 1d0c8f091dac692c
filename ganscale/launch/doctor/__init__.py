"""The cluster check: what is measured on each node (`probe`), how (`collect`), and what it means (`checks`)."""
