"""PostgreSQL: the pool, the tenant boundary, migrations and the embedded server."""
