"""The messages between the planes. Both sides import this; neither imports the other."""
