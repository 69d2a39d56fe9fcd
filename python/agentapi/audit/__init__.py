"""The audit log: who did what, when and with which outcome, in rows that cannot be changed without it showing."""
