"""Run programs that nobody trusts: servers that fork jails, the wire between them and us, and what to believe of it."""
