"""Values as the pages show them."""

from __future__ import annotations

import unicodedata


def plain(text: str) -> str:
    """On one line, without control characters."""
    if not text.isprintable():
        text = "".join(" " if unicodedata.category(char) == "Cc" else char for char in text)
    return " ".join(text.split())


def number(value: float) -> str:
    """With four digits, or as many as there are before the point."""
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e12 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """In the two largest units that there are."""
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours:,} h {minutes} min"
    return f"{minutes} min {left} s" if minutes else f"{left} s"
