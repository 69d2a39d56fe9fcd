"""Invitations: offers of membership, behind a link that is good once."""
