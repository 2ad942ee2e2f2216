"""Common corruptions: nineteen kinds at five severities."""
