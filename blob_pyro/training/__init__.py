"""Training: the two terms of the ELBO, schedules, recipes, the step, the loop."""
