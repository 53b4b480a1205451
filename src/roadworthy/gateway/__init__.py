"""The online edge: workers that answer (app, predict, protocols) and the agent that does everything else."""
