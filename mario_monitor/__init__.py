"""The page of all runs: what it is told of them, its server, and the page itself in page/."""
