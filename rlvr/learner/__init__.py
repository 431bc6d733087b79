"""From groups to a better policy: model, credit, optimizer step, checkpoint."""
