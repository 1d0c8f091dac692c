"""The replicas of a run: who they are, their collectives, their random numbers."""
