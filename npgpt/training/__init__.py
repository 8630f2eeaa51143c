"""Training: tasks, the run folder, the loop, and replaying a run."""
