"""Tables and numbers that read well in a terminal and are Markdown."""

from math import isnan


def table(head, rows):
    """A Markdown table with aligned columns; all but the first column to the right."""
    cells = [list(map(str, line)) for line in (head, *rows)]
    widths = [max(3, *map(len, column)) for column in zip(*cells, strict=True)]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]

    def line(row):
        first, *others = zip(row, widths, strict=True)
        texts = [first[0].ljust(first[1]), *(text.rjust(width) for text, width in others)]
        return "| " + " | ".join(texts) + " |"

    return "\n".join(map(line, [cells[0], rule, *cells[1:]]))


def milliseconds(seconds):
    """Seconds as milliseconds in three digits or, from 1000 on, whole ones."""
    if isnan(seconds):
        return ""
    number = 1e3 * seconds
    return f"{number:.3g}" if number < 999.5 else f"{number:,.0f}"


def number(value, form):
    """A number in a format; nothing for NaN and None."""
    return "" if value is None or isnan(value) else format(value, form)
