"""The figures of README.md: what they show is measured by `--fresh` and recorded beside this file."""
