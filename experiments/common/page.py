"""The tables in a page, between two marks, so that the words around them stay."""

from pathlib import Path

from softprompt.errors import BadInput

END = "<!-- end of tables -->"


def with_tables(page: str, tables: str, name: str, begin: str) -> str:
    """The page with these tables in the place of those between its marks.

    Raises:
        BadInput: the marks are not there, once each and in this order.
    """
    before, mark, rest = page.partition(begin)
    _, end, after = rest.partition(END)
    if not (mark and end) or begin in rest or END in after:
        raise BadInput(f"{name} has no place for tables; it needs the lines {begin!r} and {END!r}, once each")
    return f"{before}{begin}\n\n{tables}\n{END}{after}"


def write_page(path: "Path | str", tables: str, begin: str) -> None:
    """Put the tables into a page, below the line `begin`, which says what makes them.

    Raises:
        BadInput: it cannot be read, or has no marks.
        StorageFailure: the disk is full or not writable; the page stays as it was.
    """
    from softprompt.store import write_file

    path = Path(path)
    try:
        page = path.read_text(encoding="utf-8")
    except OSError as error:
        raise BadInput(f"cannot read {path}: {error.strerror}; give a page with a place for tables") from error
    write_file(path, with_tables(page, tables, str(path), begin).encode(), what="the page", replace=True)
