"""The load generators and the checks of their answers."""
