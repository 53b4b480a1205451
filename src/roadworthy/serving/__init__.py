"""What is the same for every edge: endpoints, admission, the split of traffic, and the pipeline of a prediction."""
