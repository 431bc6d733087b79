"""From the learner's weights to proven copies of them in every generator."""
