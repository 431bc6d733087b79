"""The training loop: who calls whom, in which order, and what is kept."""
