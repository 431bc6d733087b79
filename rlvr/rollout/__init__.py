"""From a task to a graded group: rendering, generation, the environment's turns, and grading."""
