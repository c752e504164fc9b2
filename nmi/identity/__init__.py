"""Who asks, and what it may have: watches feed the index (`feed`), a pure function decides (`decide`)."""
