"""What keeps MIC from running at all."""


class StartError(Exception):
    """Something outside must change before MIC can run; the message is one line and says what."""
