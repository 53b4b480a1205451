"""A cache of answers that workers and machines share, in Redis."""
