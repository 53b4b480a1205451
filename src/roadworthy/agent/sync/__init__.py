"""What goes to and from the control plane: snapshots, packages, telemetry and record files."""
