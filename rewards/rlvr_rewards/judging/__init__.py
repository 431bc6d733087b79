"""What `judge` is made of: the endpoint, prompts and kept verdicts."""
