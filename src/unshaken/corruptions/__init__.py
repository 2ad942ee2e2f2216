"""Common corruptions: nineteen kinds at five severities."""

from unshaken.base.lazy_names import lazy_names

__getattr__, __dir__, __all__ = lazy_names(  # pyright: ignore[reportUnsupportedDunderAll]
    __name__,
    {
        "Corruption": "corruption",
        "FIFTEEN": "severity",
        "EXTRA": "severity",
        "SEVERITIES": "severity",
    },
)
