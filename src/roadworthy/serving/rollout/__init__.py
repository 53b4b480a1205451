"""An endpoint in a rollout: the assignment of requests to versions, and the counts that are evidence."""
