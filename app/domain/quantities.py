"""Numbers of things in messages."""


def quantity(number: int, thing: str) -> str:
    """Return a number with the name of its things, which gets a plural `s` unless the number is 1."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"
