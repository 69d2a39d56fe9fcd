"""The reference of the HTTP API: an OpenAPI document out of the rooms' operations, and a page for people."""
