"""Text that any file can hold."""


def whole_characters(text: str) -> str:
    """The same text, with halves of a character that came apart (UTF-16's surrogates) joined.

    An endpoint may send an emoji as two halves in two pieces; Python keeps each as a character that no file takes. A
    half without its other half becomes U+FFFD.
    """
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
