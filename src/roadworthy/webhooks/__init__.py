"""Webhooks: who is told of which events, where they may go, how they are signed, sent and tried again."""
