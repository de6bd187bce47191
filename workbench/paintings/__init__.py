"""The painted sample pictures: "swirls" in oil, "hatching" in pen and ink, "mosaic" in stones.

Each module paints one picture by code and always the same one. They draw `OVERSIZE` times too
large and shrink the result, which smooths its edges.
"""
