"""For those who extend Roadworthy: conformance suites that every plug-in must pass."""
