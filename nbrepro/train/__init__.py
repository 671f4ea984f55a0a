"""Training one network: the step, the loop around it, its schedule and its checkpoints."""
