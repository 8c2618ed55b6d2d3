"""Alembic's entry: runs the numbered SQL files in one transaction of the caller's connection."""

from alembic import context

OPTIONS = {"version_table_schema": "orchestrator", "version_table": "schema_version"}


def run() -> None:
    """Migrate over the connection handed in, or print the SQL where there is none."""
    connection = context.config.attributes.get("connection")
    if connection is None:
        context.configure(dialect_name="postgresql", **OPTIONS)
        print("create schema if not exists orchestrator;", file=context.config.output_buffer)
    else:
        connection.exec_driver_sql("create schema if not exists orchestrator")
        context.configure(connection=connection, **OPTIONS)
    with context.begin_transaction():
        context.run_migrations()


run()
