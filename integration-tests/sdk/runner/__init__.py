"""The parts of the conformance suite's runner; `run` puts them together."""


class Problem(Exception):
    """The suite cannot run; the text says why and what to do about it."""
