"""Names and values in SQL: every name quoted, every value a literal."""

from __future__ import annotations

from hashlib import sha256

from ffcompletion.attaching.definition import Definition, table_parts

__all__ = ["byte_for_byte", "dollars", "function_name", "identifier", "literal", "result_table", "table"]


def identifier(text: str) -> str:
    """Quoted."""
    return '"' + text.replace('"', '""') + '"'


def literal(text: str | None) -> str:
    """Quoted, whatever ``standard_conforming_strings`` says."""
    if text is None:
        return "NULL"
    quoted = "'" + text.replace("'", "''") + "'"
    return "E" + quoted.replace("\\", "\\\\") if "\\" in quoted else quoted


def dollars(name: str, *within: str) -> str:
    """``$name$``, longer where that is in any of these texts."""
    mark = f"${name}$"
    while any(mark in text for text in within):
        mark = f"${name[0]}{mark[1:]}"
    return mark


def byte_for_byte(row: str, column: str) -> str:
    """A column's text, which is compared byte for byte, whatever the column's collation is."""
    return f"pg_catalog.format('%s', {row}.{identifier(column)}) COLLATE pg_catalog.\"C\""


def table(definition: Definition) -> str:
    """Its table, quoted."""
    schema, name = table_parts(definition.table)
    return identifier(name) if schema is None else f"{identifier(schema)}.{identifier(name)}"


def result_table(definition: Definition) -> str | None:
    """The table that its results are in, quoted, where that is another one."""
    if definition.result_table is None:
        return None
    schema, name = table_parts(definition.result_table)
    return identifier(name) if schema is None else f"{identifier(schema)}.{identifier(name)}"


def function_name(name: str) -> str:
    """Of the trigger function and the triggers of an attachment: names may be as long as identifiers."""
    return f"ff_attached_{sha256(name.encode()).hexdigest()[:16]}"
