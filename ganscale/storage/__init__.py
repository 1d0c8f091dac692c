"""Run directories and what lies in them: checkpoints, failures, the writer's lease."""
