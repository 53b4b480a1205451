"""The part of serving that every edge shares: endpoints, admission, the split of traffic, and the pipeline of a prediction."""
