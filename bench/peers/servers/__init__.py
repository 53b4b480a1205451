"""What each peer runs, written as its own documentation shows it. Run by the peer's own Python, never imported by ours."""
