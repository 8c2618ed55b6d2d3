"""The only place with SQL: a module and a `.sql` file of named statements for each concern.

Every verb is an *operation*: a generator that yields statements and returns a value. `run` drives
it over a psycopg connection, `arun` over an asynchronous one, so no verb exists twice.
"""
