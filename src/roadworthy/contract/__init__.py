"""The messages between the control plane and gateways. Both import this room; neither imports the other."""
