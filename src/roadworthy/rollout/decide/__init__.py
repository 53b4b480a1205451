"""Pure decisions: the state machine, verdicts, alerts, commands, and when a version may take over."""
