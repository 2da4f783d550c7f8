"""How the command line reads its options: values that are refused in one line."""

from __future__ import annotations

import argparse
import csv
from math import inf
from pathlib import Path

from fastbp import files

ERROR = 2  # exit status


class Parser(argparse.ArgumentParser):
    """A parser whose errors are one line."""

    def error(self, message):
        self.exit(ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def positive_integer(text):
    """Read a whole number, 1 to 2³¹ − 1."""
    # Any limit would do for epochs, rows and threads; more digits than 4300 Python does not read.
    if not (text.isascii() and text.isdigit() and len(text) < 20 and 0 < int(text) < 2**31):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 2147483647")
    return int(text)


def layer_sizes(text):
    """Read numbers of hidden units, such as 256 or 256,128."""
    try:
        return tuple(positive_integer(size.strip()) for size in text.split(","))
    except argparse.ArgumentTypeError as error:
        raise argparse.ArgumentTypeError(f"{error}; give sizes such as 256 or 256,128") from None


def positive_number(text):
    """Read a finite number above 0."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < inf:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return number


def folder(text):
    """Read the name of a folder that exists."""
    path = Path(files.expand_home(text) or text)
    if not path.is_dir():
        problem = "is not a folder" if path.exists() else "does not exist"
        raise argparse.ArgumentTypeError(f"{text!r} {problem}")
    return path


def seed(text):
    """Read a seed, 0 to 2³² − 1."""
    if not (text.isascii() and text.isdigit() and int(text) < 2**32):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 to 4294967295")
    return int(text)


def fraction(text):
    """Read a number between 0 and 1, without these."""
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < 1.0:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return number


def names(text):
    """Read names with commas between them; one that has a comma itself stands in quotes."""
    return [name.strip() for name in next(csv.reader([text], skipinitialspace=True), [])]


def delimiter(text):
    """Read a delimiter: a character, or the word tab."""
    character = {"tab": "\t", "\\t": "\t"}.get(text, text)
    if len(character) != 1 or character in '"\r\n':
        raise argparse.ArgumentTypeError(f"{text!r} is neither a single character nor 'tab'")
    return character


def encoding(text):
    """Read the name of an encoding."""
    try:
        b"a".decode(text, "ignore")
    except (LookupError, UnicodeError):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no encoding that Python knows, such as utf-8 or cp1252"
        ) from None
    return text
