"""What can be wrong with data."""


class DataError(ValueError):
    """Data that is not there, or not what the benchmark expects; one line that says what to do."""
