"""Names and values in SQL: every name quoted, every value a literal."""

from __future__ import annotations

from hashlib import sha256

from ffcompletion.attaching.definition import Definition, table_parts

__all__ = ["function_name", "identifier", "literal", "result_table", "table"]


def identifier(text: str) -> str:
    """Quoted."""
    return '"' + text.replace('"', '""') + '"'


def literal(text: str | None) -> str:
    """Quoted, whatever ``standard_conforming_strings`` says."""
    if text is None:
        return "NULL"
    quoted = "'" + text.replace("'", "''") + "'"
    return "E" + quoted.replace("\\", "\\\\") if "\\" in quoted else quoted


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
