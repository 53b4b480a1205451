"""Exchange with the control plane: snapshots, packages, telemetry and record files."""
