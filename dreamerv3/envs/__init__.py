"""What the agent plays."""
