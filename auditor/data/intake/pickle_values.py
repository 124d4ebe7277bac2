"""What a pickle's objects become that are not built: descriptions of them."""

from __future__ import annotations


class Skipped:
    """An object that was not built. ``path``: the class or function that the file names; ``state``: the attributes that the
    object should have had, as data.
    """

    __slots__ = ("path", "state")

    def __init__(self, path: str) -> None:
        self.path = path
        self.state: object = None


class Named(Skipped):
    """A class or function that a pickle names, as a value."""

    __slots__ = ()


class NumpyType(Skipped):
    """A NumPy type, such as ``f8``, and its byte order."""

    __slots__ = ("code", "order")

    def __init__(self, code: str) -> None:
        super().__init__("numpy.dtype")
        self.code, self.order = code, "="


class NumpyArray(Skipped):
    """A NumPy array before its content comes; ``places``: where the memo has it."""

    __slots__ = ("places",)

    def __init__(self) -> None:
        super().__init__("numpy.ndarray")
        self.places: list[int] = []
