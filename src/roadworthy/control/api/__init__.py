"""The HTTP routes, one file a subject. They translate; the verbs decide."""
