"""The keys of the gateway's own issuer: sealed in the database, rotated with overlap, the same in every process."""
