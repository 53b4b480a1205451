"""Webhooks: subscriptions, allowed addresses, signatures, delivery attempts and their schedule."""
